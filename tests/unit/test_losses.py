"""The criterion: what each term is, where it applies, and what must never happen."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mobius_seg.calibration import confidence_loss, name_contrast
from mobius_seg.data.sample import Batch, Sample, Target, Vocabulary, collate
from mobius_seg.errors import InputError
from mobius_seg.losses import Criterion, LossConfig
from mobius_seg.mask_losses import mask_iou
from mobius_seg.points import PointConfig, box_points, point_sample
from mobius_seg.targets import pad_targets
from mobius_seg.types import DenseOutput, LayerOutput, ModelOutput, TextPrompt

SIDE = 64
CPU = torch.device("cpu")
UNIFORM = PointConfig(count=512, importance=0.0, in_box=512)
BOXES = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.6875, 0.625, 0.375, 0.5]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rectangles(boxes_M4: Tensor, side: int = SIDE) -> Tensor:
    """Masks [M, side, side] of boxes cxcywh."""
    at = (torch.arange(side) + 0.5) / side
    x = (at - boxes_M4[:, :1]).abs() < boxes_M4[:, 2:3] / 2
    y = (at - boxes_M4[:, 1:2]).abs() < boxes_M4[:, 3:] / 2
    return y[:, :, None] & x[:, None, :]


def target(
    boxes_M4: Tensor = BOXES,
    named: list[list[int]] | None = None,
    known: list[int] | None = None,
    with_masks: bool = True,
    has_object: bool = True,
) -> Target:
    """Rectangles; ``named`` and ``known`` are 0/1 rows."""
    width = len(named[0]) if named else len(known or [])
    columns = torch.tensor(named or []).bool().reshape(len(boxes_M4), width)
    return Target(
        boxes_M4=boxes_M4,
        masks_MHW=rectangles(boxes_M4) if with_masks else None,
        columns_MK=columns,
        known_K=torch.tensor(known if known is not None else [1] * width).bool(),
        has_object=has_object,
    )


def perfect(target: Target, queries: int = 5, sure: float = 12.0) -> tuple[LayerOutput, Tensor]:
    """Query m answers for target m; the others say no."""
    count = len(target.boxes_M4)
    logits = torch.full((1, queries, target.columns_MK.shape[1]), -sure)
    logits[0, :count][target.columns_MK] = sure
    objects = torch.full((1, queries), -sure)
    objects[0, :count] = sure
    boxes = torch.full((1, queries, 4), 0.1)
    boxes[0, :count] = target.boxes_M4
    features = torch.full((1, queries, SIDE // 4, SIDE // 4), -sure)
    features[0, :count] = sure * (2 * rectangles(target.boxes_M4, SIDE // 4).float() - 1)
    return LayerOutput(logits, objects, boxes, torch.eye(queries)[None]), features


def prompt(columns: int, vectors: Tensor | None = None) -> TextPrompt:
    return TextPrompt(torch.eye(columns, 8)[None] if vectors is None else vectors[None])


def run(
    layers: list[LayerOutput],
    features: Tensor,
    targets: list[Target],
    asked: TextPrompt,
    **changes: Any,
) -> dict[str, Tensor]:
    config = LossConfig(**{"points": UNIFORM, **changes})
    output = ModelOutput(layers, features, asked.pooled_BKD)
    return Criterion(config)(output, targets, asked, generator())


def leaf(layer: LayerOutput) -> LayerOutput:
    return LayerOutput(*(t.clone().requires_grad_() for t in layer.tensors()))


def random_layer(columns: int, queries: int = 6, seed: int = 0) -> LayerOutput:
    source = generator(seed)
    return LayerOutput(
        torch.randn(1, queries, columns, generator=source),
        torch.randn(1, queries, generator=source),
        torch.rand(1, queries, 4, generator=source) * 0.3 + 0.3,
        torch.randn(1, queries, 7, generator=source),
    )


# --- confidence loss -----------------------------------------------------------------------------

LOG3 = math.log(3.0)  # p = 3/4
P, N = -math.log(0.75), -math.log(0.25)  # cross-entropy of a sure yes and a sure no at p = 3/4


@pytest.mark.parametrize(
    ("kind", "positive", "negative"),
    [
        ("mal", 0.125 * P + 0.875 * N, 0.75**1.5 * N),
        ("varifocal", 0.25 * (0.25 * P + 0.75 * N), 0.75 * 0.75**2 * N),
        ("focal", 0.25 * 0.25**2 * P, 0.75 * 0.75**2 * N),
    ],
)
def test_confidence_by_hand(kind: Any, positive: float, negative: float) -> None:
    """At p = 3/4 and quality u = 1/4, of which MAL's power 1.5 makes the target 1/8."""
    loss = confidence_loss(
        torch.tensor([LOG3, LOG3]), torch.tensor([0.25, 0.9]), torch.tensor([True, False]), kind
    )
    assert loss.tolist() == pytest.approx([positive, negative], rel=1e-5)


def test_the_optimum_of_mal_is_a_power_of_the_quality() -> None:
    quality = torch.tensor([0.2, 0.5, 0.9])
    logits = torch.logit(quality**1.5).requires_grad_()
    confidence_loss(logits, quality, torch.ones(3, dtype=torch.bool)).sum().backward()
    torch.testing.assert_close(logits.grad, torch.zeros(3), rtol=0, atol=1e-6)


def test_unknown_class_loss() -> None:
    with pytest.raises(InputError, match="class_loss is 'softmax'"):
        LossConfig(class_loss="softmax")  # type: ignore[arg-type]


# --- a stage -------------------------------------------------------------------------------------


def test_perfect_prediction_costs_next_to_nothing() -> None:
    wanted = target(named=[[1, 0, 0], [0, 0, 1]])
    layer, features = perfect(wanted)
    parts = run([layer], features, [wanted], prompt(3))
    assert parts["box"] < 1e-6
    assert parts["giou"] < 1e-5
    assert parts["mask"] < 0.05  # labels are soft on the edge
    assert parts["dice"] < 0.05
    assert parts["quality"] > 0.97
    assert parts["class"] < 0.3  # what is left: the target u^1.5 is just below 1
    for flaw in (
        replace(layer, boxes_BQ4=layer.boxes_BQ4 + 0.1),
        replace(layer, mask_embed_BQM=-layer.mask_embed_BQM),
        replace(layer, logits_BQK=-layer.logits_BQK),
        replace(layer, object_logits_BQ=-layer.object_logits_BQ),
    ):
        assert run([flaw], features, [wanted], prompt(3))["loss"] > parts["loss"] + 0.5


def test_each_term_by_hand() -> None:
    """One target, one query: every part is a formula on the page."""
    wanted = target(BOXES[:1], [[1]], with_masks=False)
    predicted = torch.tensor([[[0.375, 0.25, 0.25, 0.25]]])  # half a width to the right: IoU 1/3
    layer = LayerOutput(
        torch.full((1, 1, 1), LOG3), torch.full((1, 1), -LOG3), predicted, torch.zeros(1, 1, 3)
    )
    parts = run([layer], torch.zeros(1, 3, 16, 16), [wanted], prompt(1))
    named, seen = 0.25 * 0.25**2 * P, 0.25 * 0.75**2 * N  # no mask, no u: plain focal
    assert float(parts["box"]) == pytest.approx(0.125)
    assert float(parts["giou"]) == pytest.approx(1 - 1 / 3)
    assert float(parts["quality"]) == 0.0
    assert float(parts["class"]) == pytest.approx(named + seen, rel=1e-5)
    assert float(parts["mask"]) == float(parts["dice"]) == 0.0
    total = 4 * (named + seen) + 5 * 0.125 + 2 * (1 - 1 / 3)
    assert float(parts["loss"]) == pytest.approx(total, rel=1e-5)


def test_the_quality_of_box_and_mask_is_what_confidence_learns() -> None:
    """The box of a perfect mask is half a width off: u = sqrt(1/3), as far as points can tell."""
    wanted = target(BOXES[:1], [[1]])
    layer, features = perfect(wanted, queries=1)
    layer = replace(
        layer,
        logits_BQK=torch.full((1, 1, 1), LOG3),
        object_logits_BQ=torch.full((1, 1), -LOG3),
        boxes_BQ4=torch.tensor([[[0.375, 0.25, 0.25, 0.25]]]),
    )
    parts = run([layer], features, [wanted], prompt(1), class_loss="mal")
    quality = float(parts["quality"])
    assert quality == pytest.approx(math.sqrt(1 / 3), rel=0.05)
    aim = quality**1.5
    named, seen = aim * P + (1 - aim) * N, aim * N + (1 - aim) * P
    assert float(parts["class"]) == pytest.approx(named + seen, rel=1e-5)


def test_every_stage_counts() -> None:
    wanted = target(named=[[1, 0], [0, 1]], with_masks=False)
    layer, features = random_layer(2), torch.zeros(1, 7, 16, 16)
    once = run([layer], features, [wanted], prompt(2))
    thrice = run([layer] * 3, features, [wanted], prompt(2))
    assert float(thrice["loss"]) == pytest.approx(3 * float(once["loss"]), rel=1e-6)


def test_a_batch_is_the_sum_of_its_images() -> None:
    """Padding to the largest number of targets adds nothing."""
    both = [
        target(named=[[1, 0], [0, 1]], with_masks=False),
        target(BOXES[:1] + 0.1, [[0, 1]], with_masks=False),
    ]
    layers = [random_layer(2, seed=seed) for seed in (0, 1)]
    joint = LayerOutput(
        *(torch.cat(pair) for pair in zip(*(x.tensors() for x in layers), strict=True))
    )
    features = torch.zeros(1, 7, 16, 16)
    together = run([joint], features.expand(2, -1, -1, -1), both, prompt(2))["loss"] * 3
    singly = [run([x], features, [t], prompt(2))["loss"] for x, t in zip(layers, both, strict=True)]
    assert float(together) == pytest.approx(float(singly[0] * 2 + singly[1]), rel=1e-6)


def test_points_come_from_the_generator_alone() -> None:
    wanted, features = target(named=[[1], [1]]), torch.randn(1, 7, 16, 16, generator=generator(3))
    layer, points = random_layer(1), PointConfig()
    state = torch.get_rng_state()
    first = run([layer], features, [wanted], prompt(1), points=points)
    second = run([layer], features, [wanted], prompt(1), points=points)
    assert torch.equal(state, torch.get_rng_state())
    assert float(first["loss"]) == float(second["loss"])


# --- who is told what ----------------------------------------------------------------------------


def column_gradients(
    wanted: Target, vectors: Tensor, queries: int = 4, **changes: Any
) -> tuple[Tensor, Tensor]:
    """Gradients of the class loss: [Q, K] and, for the object column, [Q]."""
    layer, features = perfect(wanted, queries, sure=2.0)
    layer = leaf(replace(layer, logits_BQK=torch.zeros_like(layer.logits_BQK)))
    asked = prompt(vectors.shape[0], vectors)
    off = {"mask": 0.0, "dice": 0.0, "box": 0.0, "giou": 0.0, "contrast": 0.0}
    run([layer], features, [wanted], asked, **{**off, **changes})["loss"].backward()
    for other in (layer.boxes_BQ4, layer.mask_embed_BQM):  # quality is a target, not a lever
        assert other.grad is None or not other.grad.any()
    assert layer.logits_BQK.grad is not None
    assert layer.object_logits_BQ.grad is not None
    return layer.logits_BQK.grad[0], layer.object_logits_BQ.grad[0]


def test_synonyms_of_the_true_name_are_pushed_less() -> None:
    """Cosines to the true name: 0.96, 0 and 0.6; only what lies above 0.8 is spared."""
    vectors = torch.tensor([[1.0, 0.0], [0.96, 0.28], [0.0, 1.0], [0.6, 0.8]])
    wanted = target(BOXES[:1], [[1, 0, 0, 0]], with_masks=False)
    gradient, _ = column_gradients(wanted, vectors)
    assert gradient[0, 0] < 0  # up
    torch.testing.assert_close(gradient[0, 1], 0.2 * gradient[0, 2], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gradient[0, 3], gradient[0, 2], rtol=1e-4, atol=1e-7)
    assert gradient[0, 2] > 0  # down
    torch.testing.assert_close(gradient[1], gradient[0, 2].expand(4), rtol=1e-4, atol=1e-7)
    plain, _ = column_gradients(wanted, vectors, synonyms=False)
    torch.testing.assert_close(plain[0, 1], gradient[0, 2], rtol=1e-4, atol=1e-7)


def test_a_second_column_of_the_same_name_is_not_pushed() -> None:
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    wanted = target(BOXES[:1], [[1, 0]], with_masks=False)
    gradient, _ = column_gradients(wanted, vectors)
    assert gradient[0, 1].abs() < 1e-6


def test_unknown_columns_get_no_gradient() -> None:
    """Federated: column 0 is present, 1 known to be absent, 2 nobody knows."""
    wanted = target(named=[[1, 0, 0], [1, 0, 0]], known=[1, 1, 0], has_object=False)
    gradient, objects = column_gradients(wanted, torch.eye(3, 8))
    assert not gradient[:, 2].any()
    assert bool((gradient[:2, 0] < 0).all())
    assert bool((gradient[2:, 0] > 0).all())
    assert bool((gradient[:, 1] > 0).all())
    assert bool((objects[:2] != 0).all())
    assert not objects[2:].any()  # an unmatched query may be on an object nobody drew


def test_names_compete() -> None:
    """Only the contrast: up for the true name, down for others by their share and their cosine."""
    vectors = torch.tensor([[1.0, 0.0], [0.96, 0.28], [0.0, 1.0], [1.0, 0.0]])
    wanted = target(BOXES[:1], [[1, 0, 0, 0]], with_masks=False)
    only = {"classification": 0.0, "contrast": 2.0}
    gradient, objects = column_gradients(wanted, vectors, **only)
    weights = torch.tensor([1.0, 0.2, 1.0, 0.0])  # logits are zero, so shares are the weights
    shares = weights / weights.sum()
    torch.testing.assert_close(gradient[0], 2 * (shares - torch.tensor([1.0, 0, 0, 0])))
    assert not gradient[1:].any()
    assert not objects.any()


def test_unknown_names_do_not_compete() -> None:
    only = {"classification": 0.0, "contrast": 1.0}
    some = target(named=[[1, 0, 0], [0, 0, 0]], known=[1, 1, 0])
    gradient, _ = column_gradients(some, torch.eye(3, 8), **only)
    torch.testing.assert_close(gradient[0], torch.tensor([-0.25, 0.25, 0.0]))
    assert not gradient[1:].any()  # target 1 has no name: nothing to compete for


def test_contrast_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0], [5.0, 1.0, 1.0]])
    named = torch.tensor([[True, False, False], [False, False, False], [True, True, False]])
    push = torch.tensor([[0.0, 0.5, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    first = math.log(math.exp(2) + 0.5 * math.exp(1) + math.exp(-1)) - 2
    loss = name_contrast(logits, named, push)
    torch.testing.assert_close(loss, torch.tensor([first, 0.0, 0.0]), rtol=1e-5, atol=1e-6)
    assert name_contrast(logits[:, :0], named[:, :0], push[:, :0]).tolist() == [0.0] * 3
    assert name_contrast(logits[:0], named[:0], push[:0]).shape == (0,)


def test_masked_columns_get_no_gradient() -> None:
    wanted = target(named=[[1, 0], [1, 0]])
    layer, features = perfect(wanted, sure=2.0)
    layer = leaf(layer)
    asked = replace(prompt(2), pooled_mask_BK=torch.tensor([[True, False]]))
    run([layer], features, [wanted], asked)["loss"].backward()
    assert layer.logits_BQK.grad is not None
    assert layer.logits_BQK.grad[..., 0].all()
    assert not layer.logits_BQK.grad[..., 1].any()


def test_an_expression_pulls_the_referred_and_pushes_the_others() -> None:
    wanted = target(named=[[1], [0]], known=[1])
    gradient, objects = column_gradients(wanted, torch.eye(1, 8))
    assert gradient[0, 0] < 0 < gradient[1, 0]
    assert bool((objects[:2] < 0).all())  # both are objects


def test_without_masks_there_is_no_mask_loss_and_quality_is_box_iou() -> None:
    wanted = target(named=[[1], [1]], with_masks=False)
    layer = leaf(random_layer(1))
    features = torch.randn(1, 7, 16, 16, generator=generator(3)).requires_grad_()
    parts = run([layer], features, [wanted], prompt(1))
    parts["loss"].backward()
    assert not parts["mask"].any()
    assert not parts["dice"].any()
    assert layer.mask_embed_BQM.grad is None or not layer.mask_embed_BQM.grad.any()
    assert features.grad is None or not features.grad.any()
    assert layer.boxes_BQ4.grad is not None
    assert layer.boxes_BQ4.grad.any()


def test_quality_is_the_geometric_mean_of_box_andmask_iou() -> None:
    wanted = target(BOXES[:1])
    layer, features = perfect(wanted, sure=20.0)
    shifted = layer.boxes_BQ4.clone()
    shifted[0, 0, 0] += 0.125  # box IoU 1/3
    parts = run([replace(layer, boxes_BQ4=shifted)], features, [wanted], prompt(0))
    assert float(parts["quality"]) == pytest.approx(math.sqrt(1 / 3), abs=0.01)


# --- odd input -----------------------------------------------------------------------------------


def test_images_without_an_object() -> None:
    nothing = target(torch.zeros(0, 4), known=[1, 1])
    layer = leaf(random_layer(2))
    parts = run([layer], torch.zeros(1, 7, 16, 16), [nothing], prompt(2))
    parts["loss"].backward()
    assert all(torch.isfinite(value) for value in parts.values())
    assert layer.logits_BQK.grad is not None
    assert layer.object_logits_BQ.grad is not None
    assert bool((layer.logits_BQK.grad > 0).all())
    assert bool((layer.object_logits_BQ.grad > 0).all())
    for part in ("mask", "dice", "box", "giou", "quality"):
        assert not parts[part].any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_predictions_that_are_not_finite_do_not_stop_the_matcher(bad: float) -> None:
    wanted = target(named=[[1], [1]])
    layer, features = perfect(wanted)
    for value in layer.tensors():
        value[0, 2] = bad
    padded = pad_targets([wanted], prompt(1), (SIDE, SIDE), CPU)
    query = Criterion(LossConfig(points=UNIFORM)).match(layer, features, padded, generator())
    assert query.tolist() == [[0, 1]]


def test_more_targets_than_queries() -> None:
    wanted = target(named=[[1], [1]])
    layer, features = perfect(wanted, queries=3)
    one = LayerOutput(*(value[:, 1:2] for value in layer.tensors()))
    padded = pad_targets([wanted], prompt(1), (SIDE, SIDE), CPU)
    criterion = Criterion(LossConfig(points=UNIFORM))
    assert criterion.match(one, features, padded, generator()).tolist() == [[-1, 0]]
    parts = run([one], features, [wanted], prompt(1))
    assert all(torch.isfinite(value) for value in parts.values())


@pytest.mark.parametrize("bad", [[0.5, 0.5, 0.0, 0.2], [0.5, 0.5, 0.2, -0.1], [math.nan] * 4])
def test_boxes_without_an_area_are_left_out(bad: list[float]) -> None:
    good = target(named=[[1], [1]], with_masks=False)
    boxes = torch.cat([BOXES, torch.tensor([bad])])
    with_bad = target(boxes, [[1], [1], [1]], with_masks=False)
    layer, features = random_layer(1), torch.zeros(1, 7, 16, 16)
    left = run([layer], features, [good], prompt(1))
    right = run([layer], features, [with_bad], prompt(1))
    assert {k: float(v) for k, v in left.items()} == {k: float(v) for k, v in right.items()}
    padded = pad_targets([with_bad], prompt(1), (SIDE, SIDE), CPU)
    assert padded.valid_BM.tolist() == [[True, True, False]]


# --- dense loss ----------------------------------------------------------------------------------


def dense_of(boxes_N4: Tensor, columns: int = 1, stride: int = 8) -> DenseOutput:
    cells = SIDE // stride
    at = (torch.arange(cells) + 0.5) / cells
    y, x = torch.meshgrid(at, at, indexing="ij")
    centers = torch.stack([x.flatten(), y.flatten()], -1)
    boxes = torch.cat([centers, boxes_N4[:, 2:]], -1) if boxes_N4.shape[0] == 1 else boxes_N4
    boxes = boxes.expand(len(centers), 4) if len(boxes) == 1 else boxes
    return DenseOutput(
        torch.zeros(1, len(centers), columns),
        torch.zeros(1, len(centers)),
        boxes[None],
        centers,
        torch.full((len(centers),), float(stride)),
    )


def around_centers(size: float, stride: int = 8) -> DenseOutput:
    """Every token predicts a square of this size about itself."""
    dense = dense_of(torch.zeros(SIDE**2 // stride**2, 4), stride=stride)
    sides = torch.full_like(dense.centers_N2, size)
    return replace(dense, boxes_BN4=torch.cat([dense.centers_N2, sides], -1)[None])


def test_dense_tokens_have_one_owner_and_lie_inside() -> None:
    overlapping = torch.tensor([[0.4, 0.4, 0.5, 0.5], [0.6, 0.6, 0.5, 0.5], [0.5, 0.5, 0.3, 0.3]])
    dense = around_centers(0.4)
    padded = pad_targets([target(overlapping)], prompt(0), (SIDE, SIDE), CPU)
    token_BM6 = Criterion(LossConfig(dense_tokens=6)).dense_assign(dense, padded)
    assert token_BM6.shape == (1, 3, 6)
    owned = token_BM6[token_BM6 >= 0].tolist()
    assert len(owned) == len(set(owned))
    assert bool((token_BM6[..., 0] >= 0).all())
    for box, tokens in zip(overlapping, token_BM6[0], strict=True):
        centers = dense.centers_N2[tokens[tokens >= 0]]
        assert bool(((centers - box[:2]).abs() <= box[2:] / 2).all())


def test_dense_small_box_still_gets_the_nearest_token() -> None:
    small = torch.tensor([[0.31, 0.44, 0.02, 0.02]])
    dense = around_centers(0.1)
    padded = pad_targets([target(small)], prompt(0), (SIDE, SIDE), CPU)
    tokens = Criterion().dense_assign(dense, padded)[0, 0]
    distance = (dense.centers_N2 - small[0, :2]).abs().amax(-1)
    assert int(tokens[0]) == int(distance.argmin())
    assert bool((tokens[1:] == -1).all())


def test_dense_padding_and_empty_images_own_nothing() -> None:
    dense = around_centers(0.3)
    both = DenseOutput(
        dense.logits_BNK.expand(2, -1, -1),
        dense.object_logits_BN.expand(2, -1),
        dense.boxes_BN4.expand(2, -1, -1),
        dense.centers_N2,
        dense.strides_N,
    )
    padded = pad_targets([target(BOXES), target(torch.zeros(0, 4))], prompt(0), (SIDE, SIDE), CPU)
    tokens = Criterion().dense_assign(both, padded)
    assert bool((tokens[0] >= 0).any())
    assert bool((tokens[1] == -1).all())


def test_dense_loss_is_part_of_the_sum_and_can_be_left_out() -> None:
    wanted = target(named=[[1], [1]], with_masks=False)
    layer, features = random_layer(1), torch.zeros(1, 7, 16, 16)
    dense = around_centers(0.3)
    output = ModelOutput([layer], features, prompt(1).pooled_BKD, dense)
    totals = {}
    for weight in (0.0, 1.0, 2.0):
        parts = Criterion(LossConfig(dense=weight))(output, [wanted], prompt(1), generator())
        totals[weight] = float(parts["loss"])
        assert ("dense" in parts) == (weight > 0)
    assert totals[1.0] > totals[0.0]
    assert totals[2.0] - totals[0.0] == pytest.approx(2 * (totals[1.0] - totals[0.0]), rel=1e-4)


def test_dense_loss_is_divided_by_the_tokens_of_all_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted, dense = target(named=[[1], [1]], with_masks=False), around_centers(0.3)
    output = ModelOutput([random_layer(1)], torch.zeros(1, 7, 16, 16), prompt(1).pooled_BKD, dense)

    def loss() -> float:
        return float(Criterion(LossConfig(dense=1.0))(output, [wanted], prompt(1))["dense"])

    padded = pad_targets([wanted], prompt(1), (SIDE, SIDE), CPU)
    tokens = int((Criterion(LossConfig()).dense_assign(dense, padded) >= 0).sum())
    assert tokens > 2
    alone = loss()
    # Other processes hold so many objects and tokens that the mean of both is 1000.
    monkeypatch.setattr("mobius_seg.losses.mean_count", lambda count: count * 0 + 1000.0)
    assert loss() == pytest.approx(alone * tokens / 1000, rel=1e-4)


# --- quality of a mask ---------------------------------------------------------------------------


def shape(kind: str, x: float, y: float, size: float, cells: int) -> Tensor:
    """Signed, roughly linear across the edge: positive inside a disc or a square."""
    at = (torch.arange(cells) + 0.5) / cells
    dx, dy = at[None, :] - x, at[:, None] - y
    far = torch.maximum(dx.abs(), dy.abs()) if kind == "square" else (dx**2 + dy**2).sqrt()
    return (size - far) * cells


@pytest.mark.parametrize("kind", ["disc", "square"])
@pytest.mark.parametrize(
    ("x", "y", "size"),
    [(0.5, 0.5, 0.2), (0.56, 0.5, 0.2), (0.5, 0.5, 0.35), (0.5, 0.5, 0.12), (0.85, 0.5, 0.2)],
    ids=["equal", "shifted", "too large, also outside the box", "too small", "elsewhere"],
)
def test_mask_quality_is_the_iou(kind: str, x: float, y: float, size: float) -> None:
    """Against the masks themselves; the wanted mask lies in the middle with radius 0.2.

    Beside the sampling error, what lies outside the box is counted in whole cells.
    """
    cells, fine = 48, 192
    wanted = shape(kind, 0.5, 0.5, 0.2, fine) > 0
    logits = shape(kind, x, y, size, cells)[None, None]
    upsampled = torch.nn.functional.interpolate(logits, scale_factor=4, mode="bilinear")[0, 0]
    predicted = upsampled > 0
    truth = float((predicted & wanted).sum() / (predicted | wanted).sum())
    box = torch.tensor([[0.5, 0.5, 0.4, 0.4]])
    for count, tolerance in ((8192, 0.03), (256, 0.1)):
        points = box_points(box, count, generator(1))
        labels = point_sample(wanted[None, None].float(), points)[:, 0]
        estimate = mask_iou(logits, point_sample(logits, points)[:, 0], labels, box, count)
        assert float(estimate) == pytest.approx(truth, abs=tolerance)


def test_mask_quality_at_the_border_and_of_nothing() -> None:
    cells, box = 48, torch.tensor([[0.05, 0.05, 0.1, 0.1]])  # enlarged, it leaves the image
    points = box_points(box, 4096, generator(1))
    assert bool(((points >= 0) & (points <= 1)).all())
    wanted = rectangles(box, 4 * cells)[None].float()
    labels = point_sample(wanted, points)[:, 0]
    for logits, truth in (
        (shape("square", 0.05, 0.05, 0.05, cells), 1.0),
        (-torch.ones(cells, cells), 0.0),
        (torch.ones(cells, cells), 0.01),
    ):
        seen = point_sample(logits[None, None], points)[:, 0]
        estimate = float(mask_iou(logits[None, None], seen, labels, box, 4096))
        assert estimate == pytest.approx(truth, abs=max(0.04 * truth, 0.002))


# --- from samples --------------------------------------------------------------------------------


@pytest.fixture
def mixed(make_sample: Callable[..., Sample], vocabulary: Vocabulary) -> Batch:
    samples = [
        make_sample(names=("cup", "dog"), seed=1),
        make_sample(expression="the cup on the left", referred=(0,), seed=2),
        make_sample(names=None, with_masks=False, seed=3),
        make_sample(boxes=(), names=(), seed=4),
        make_sample(names=("car", "boat"), exhaustive=False, absent=("tree",), seed=5),
    ]
    return collate(samples, vocabulary, np.random.default_rng(0), (2, 4))


def test_all_kinds_of_samples_in_one_batch(mixed: Batch) -> None:
    count, columns = len(mixed.targets), mixed.prompt.pooled_BKD.shape[1]
    source = generator()
    layer = LayerOutput(
        torch.randn(count, 6, columns, generator=source, requires_grad=True),
        torch.randn(count, 6, generator=source, requires_grad=True),
        (torch.rand(count, 6, 4, generator=source) * 0.5 + 0.2).requires_grad_(),
        torch.randn(count, 6, 7, generator=source, requires_grad=True),
    )
    features = torch.randn(count, 7, 16, 16, generator=source)
    output = ModelOutput([layer], features, mixed.prompt.pooled_BKD)
    parts = Criterion()(output, mixed.targets, mixed.prompt, source)
    parts["loss"].backward()
    assert all(torch.isfinite(value) for value in parts.values())
    found = [value.grad for value in layer.tensors() if value.grad is not None]
    assert all(torch.isfinite(g).all() for g in found)
    names, objects, boxes, masks = found
    assert mixed.prompt.pooled_mask_BK is not None
    assert not names[~mixed.prompt.pooled_mask_BK[:, None].expand_as(names)].any()
    assert not names[2].any()  # nobody said what is in image 2
    assert [bool(m.any()) for m in masks] == [True, True, False, False, True]
    assert [bool(b.any()) for b in boxes] == [True, True, True, False, True]
    assert bool((objects[3] > 0).all())  # image 3 is known to be empty
