"""The switches of the confidence loss: final target, uncertainty head, region weighting."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from mobius_seg.calibration import (
    answer_confidence,
    best_column,
    confidence,
    stage_confidence,
    with_quality,
)
from mobius_seg.data.sample import Target
from mobius_seg.errors import InputError
from mobius_seg.final_targets import final_answers, final_index
from mobius_seg.losses import Criterion, LossConfig
from mobius_seg.mask_losses import mask_terms
from mobius_seg.model import Mobius
from mobius_seg.points import PointConfig, sample_mask_points, spare_unsupported
from mobius_seg.presets import get_preset
from mobius_seg.targets import PaddedTargets, pad_targets
from mobius_seg.types import LayerOutput, ModelOutput, TextPrompt
from mobius_seg.uncertainty import uncertainty_loss

SIDE = 64
BOXES = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.7, 0.7, 0.4, 0.4]])
CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stage(
    boxes_Q4: Tensor, kept: list[int] | None = None, logit: float = -2.0, columns: int = 2
) -> LayerOutput:
    """Queries that differ in their boxes; mask vectors of query q point at feature q."""
    count = len(boxes_Q4)
    return LayerOutput(
        torch.full((1, count, columns), logit).requires_grad_(),
        torch.full((1, count), logit).requires_grad_(),
        boxes_Q4[None].clone().requires_grad_(),
        torch.eye(count, 8)[None].clone().requires_grad_(),
        None if kept is None else torch.tensor([kept]),
    )


def two_targets(has_object: bool = True, known: tuple[int, int] = (1, 1)) -> Target:
    at = (torch.arange(SIDE) + 0.5) / SIDE
    x = (at - BOXES[:, :1]).abs() < BOXES[:, 2:3] / 2
    y = (at - BOXES[:, 1:2]).abs() < BOXES[:, 3:] / 2
    return Target(
        boxes_M4=BOXES,
        masks_MHW=y[:, :, None] & x[:, None, :],
        columns_MK=torch.eye(2).bool(),
        known_K=torch.tensor(known).bool(),
        has_object=has_object,
    )


PROMPT = TextPrompt(torch.eye(2, 8)[None])


def padded() -> PaddedTargets:
    return pad_targets([two_targets()], PROMPT, (SIDE, SIDE), CPU)


def test_index_follows_what_was_kept() -> None:
    boxes = torch.full((6, 4), 0.5)
    layers = [
        stage(boxes),
        stage(boxes),
        stage(boxes[:4], [0, 2, 3, 5]),
        stage(boxes[:4]),
        stage(boxes[:2], [1, 3]),
    ]
    found = [index[0].tolist() for index in final_index(layers)]
    assert found == [[2, 5], [2, 5], [1, 3], [1, 3], [0, 1]]


def test_survivors_learn_their_last_match_and_the_dropped_their_own() -> None:
    """Six queries; 2 and 5 survive, as 0 and 1."""
    index = torch.tensor([[2, 5]])
    final = torch.tensor([[1, 0]]), torch.tensor([[0.9, 0.8]])
    own = torch.tensor([[2, 4]]), torch.tensor([[0.3, 0.4]])
    query, quality, targets = final_answers(index, own, final, padded())
    # Target 0: last match is query 5; its own match 2 survives, so that is not used. Target 1: 2,
    # and the dropped 4.
    assert query.tolist() == [[5, -1, 2, 4]]
    torch.testing.assert_close(quality[0, [0, 2, 3]], torch.tensor([0.9, 0.8, 0.4]))
    assert targets.columns_BMK[0].int().tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]


def test_nothing_dropped_doubles_nothing() -> None:
    own = torch.tensor([[0, 1]]), torch.tensor([[0.3, 0.4]])
    final = torch.tensor([[2, -1]]), torch.tensor([[0.9, 0.0]])
    targets = padded()
    query, quality, same = final_answers(torch.arange(4)[None], own, final, targets)
    assert query.tolist() == [[2, -1]]
    assert quality[0, 0] == 0.9
    assert same is targets


def run(layers: list[LayerOutput], **changes: object) -> dict[str, Tensor]:
    features = torch.full((1, 8, SIDE // 4, SIDE // 4), -5.0)
    small = two_targets().masks_MHW[:, 2::4, 2::4].float()  # type: ignore[index]
    for q in range(8):
        features[0, q] += 10 * small[q % 2]
    config = LossConfig(**changes)  # type: ignore[arg-type]
    output = ModelOutput(layers, features, PROMPT.pooled_BKD)
    return Criterion(config)(output, [two_targets()], PROMPT, generator())


def test_early_confidence_learns_the_last_quality() -> None:
    """Queries 0, 1 fit at first, but it is 2 and 3 that fit at the end (masks fit throughout)."""
    far = torch.tensor([[0.5, 0.05, 0.1, 0.1], [0.05, 0.5, 0.1, 0.1]])
    early, late = torch.cat([0.95 * BOXES, far]), torch.cat([far, BOXES])
    pulls = {}
    for kind in ("own", "final"):
        layers = [stage(early), stage(late)]
        run(layers, calibration_target=kind)["loss"].backward()
        grad = layers[0].object_logits_BQ.grad
        assert grad is not None
        pulls[kind] = (grad[0] < 0).tolist()
        assert (layers[1].object_logits_BQ.grad[0] < 0).tolist() == [False, False, True, True]
        box = layers[0].boxes_BQ4.grad  # boxes are still taught to the stage's own match
        assert box[0, :2].abs().sum() > 0
        assert box[0, 2:].abs().sum() == 0
    assert pulls == {"own": [True, True, False, False], "final": [False, False, True, True]}


def test_the_last_stage_and_a_single_stage_learn_the_same_either_way() -> None:
    one = [stage(torch.cat([BOXES, BOXES * 0.9]))]
    own, final = run(one), run(one, calibration_target="final")
    assert own.keys() == final.keys()
    assert all(torch.equal(own[key], final[key]) for key in own)


def test_queries_that_are_dropped_keep_their_own_target() -> None:
    """Query 0 answers for target 0 and is dropped; 2 takes over and 1 stays."""
    early = torch.cat([BOXES, torch.tensor([[0.5, 0.05, 0.1, 0.1]])])
    late = torch.stack([BOXES[1], BOXES[0]])
    masks = torch.eye(8)[[1, 2]][None].requires_grad_()
    layers = [stage(early), dataclasses.replace(stage(late, [1, 2]), mask_embed_BQM=masks)]
    run(layers, calibration_target="final")["loss"].backward()
    grad = layers[0].object_logits_BQ.grad
    assert grad is not None
    assert (grad[0] < 0).all()


@pytest.mark.parametrize("field", ["class_loss", "calibration_target"])
def test_unknown_switches_are_refused(field: str) -> None:
    with pytest.raises(InputError, match=rf"LossConfig\.{field} is 'none'; allowed: \w+, \w+"):
        LossConfig(**{field: "none"})  # type: ignore[arg-type]


# --- uncertainty head


def with_head(logits: list[list[float]], quality: list[float]) -> LayerOutput:
    layer = stage(torch.full((len(logits), 4), 0.5))
    quality_logits = torch.tensor([quality]).requires_grad_()
    return dataclasses.replace(
        layer, logits_BQK=torch.tensor([logits]), quality_logits_BQ=quality_logits
    )


def entropy(logit: float, target: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


LOGITS = [[2.0, 1.0], [2.0, 1.0], [0.0, 3.0], [1.0, 0.0]]
MATCHED = torch.tensor([[0, 1]])  # query 0 is right about its name, query 1 is wrong
QUALITY = torch.tensor([[0.7, 0.6]])
HEAD = [0.5, -0.2, 0.1, -1.0]


def test_head_learns_the_quality_under_the_best_name() -> None:
    layer = with_head(LOGITS, HEAD)
    columns = torch.ones(1, 2, dtype=torch.bool)
    found = uncertainty_loss(layer, MATCHED, QUALITY, padded(), columns)
    wanted = entropy(0.5, 0.7) + sum(entropy(logit, 0.0) for logit in HEAD[1:])
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_head_learns_nothing_where_the_image_knows_nothing() -> None:
    """Column 0 is unknown: only the right name and the query of column 1 have a target."""
    layer = with_head(LOGITS, HEAD)
    targets = pad_targets([two_targets(known=(0, 1))], PROMPT, (SIDE, SIDE), CPU)
    columns = torch.ones(1, 2, dtype=torch.bool)
    found = uncertainty_loss(layer, MATCHED, QUALITY, targets, columns)
    assert found.item() == pytest.approx(entropy(0.5, 0.7) + entropy(0.1, 0.0), rel=1e-5)


@pytest.mark.parametrize("exhaustive", [True, False])
def test_head_without_names_learns_the_quality_itself(exhaustive: bool) -> None:
    layer = with_head(LOGITS, HEAD)
    targets = pad_targets([two_targets(has_object=exhaustive)], PROMPT, (SIDE, SIDE), CPU)
    none = torch.zeros(1, 2, dtype=torch.bool)
    found = uncertainty_loss(layer, MATCHED, QUALITY, targets, none)
    wanted = entropy(0.5, 0.7) + entropy(-0.2, 0.6)
    if exhaustive:
        wanted += entropy(0.1, 0.0) + entropy(-1.0, 0.0)
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def network(**changes: object) -> Mobius:
    config = dataclasses.replace(get_preset("mobius-test"), **changes)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Mobius(config).eval()


def vectors(columns: int) -> Tensor:
    table = torch.randn(1, columns, 384, generator=generator(1))
    return torch.nn.functional.normalize(table, dim=-1)


IMAGES = torch.rand(2, 3, SIDE, SIDE, generator=generator())


def test_head_is_absent_unless_asked_for() -> None:
    plain = network()
    assert not [key for key in plain.state_dict() if "uncertainty" in key]
    layers = plain(IMAGES, TextPrompt(vectors(3))).layers
    assert all(layer.quality_logits_BQ is None for layer in layers)


@torch.no_grad()
@pytest.mark.parametrize("columns", [0, 1, 4])
def test_head_speaks_at_every_stage(columns: int) -> None:
    model = network(uncertainty_head=True)
    torch.nn.init.normal_(model.decoder.heads.uncertainty.mlp[-1].weight, generator=generator())
    layers = model(IMAGES, TextPrompt(vectors(columns))).layers
    assert len(layers) == 3
    for layer in layers:
        assert layer.quality_logits_BQ is not None
        assert layer.quality_logits_BQ.shape == layer.object_logits_BQ.shape
        assert layer.quality_logits_BQ.std() > 0


@torch.no_grad()
def test_head_does_not_read_masked_columns() -> None:
    model = network(uncertainty_head=True)
    torch.nn.init.normal_(model.decoder.heads.uncertainty.mlp[-1].weight, generator=generator())
    names = vectors(4)
    mask = torch.tensor([[True, False, True, False]])
    masked = model(IMAGES, TextPrompt(names, mask)).layers[-1]
    alone = model(IMAGES, TextPrompt(names[:, [0, 2]])).layers[-1]
    torch.testing.assert_close(masked.quality_logits_BQ, alone.quality_logits_BQ)
    none = model(IMAGES, TextPrompt(names, torch.zeros(1, 4, dtype=torch.bool))).layers[-1]
    nothing = model(IMAGES, TextPrompt(names[:, :0])).layers[-1]
    torch.testing.assert_close(none.quality_logits_BQ, nothing.quality_logits_BQ)


def test_head_is_trained_and_leaves_the_class_logits_alone() -> None:
    model = network(uncertainty_head=True).train()
    output = model(IMAGES[:1], TextPrompt(vectors(2)))
    parts = Criterion()(output, [two_targets()], TextPrompt(vectors(2)), generator())
    parts["uncertainty"].backward()
    head = model.decoder.heads.uncertainty
    assert head.mlp[-1].weight.grad.abs().sum() > 0
    assert model.decoder.heads.classifier.log_scale.grad is None


def test_predicted_quality_enters_the_confidence() -> None:
    layer = with_head(LOGITS, HEAD)
    plain = confidence(layer.logits_BQK, layer.object_logits_BQ, None, 0.5)
    found = stage_confidence(layer, None, 0.5)
    torch.testing.assert_close(found, (plain * torch.tensor([HEAD]).sigmoid()).sqrt().detach())
    assert not found.requires_grad
    names = torch.rand(1, 4, 3, generator=generator())
    assert with_quality(names, None) is names
    wanted = (names * torch.tensor([HEAD]).sigmoid()[..., None]).sqrt()
    torch.testing.assert_close(with_quality(names, torch.tensor([HEAD])), wanted)


def test_best_column_is_a_real_one() -> None:
    logits = torch.tensor([[[1.0, 5.0, 2.0]]])
    assert best_column(logits, None).item() == 1
    assert best_column(logits, torch.tensor([[True, False, True]])).item() == 2


# --- region weighting

POINTS = PointConfig(count=64, importance=0.75, in_box=32)


def uneven_masks(count: int = 3) -> Tensor:
    return 4 * torch.randn(count, 1, 16, 16, generator=generator(2))


def test_supported_masks_are_sampled_as_before() -> None:
    boxes = BOXES[[0, 1, 0]]
    points, _ = sample_mask_points(uneven_masks(), boxes, POINTS, generator())
    spared, weight = spare_unsupported(points, torch.ones(3), POINTS, generator(3))
    assert torch.equal(spared, points)
    assert bool((weight == 1).all())


def test_share_and_weight_of_uncertain_points_grow_with_the_support() -> None:
    boxes, support = BOXES[[0, 1, 0]], torch.tensor([0.0, 0.5, 1.0])
    points, _ = sample_mask_points(uneven_masks(), boxes, POINTS, generator())
    spared, weight = spare_unsupported(points, support, POINTS, generator(3))
    same = (spared == points).all(-1)
    assert same[:, :32].all()  # those in the box
    assert same[:, -16:].all()  # those anywhere
    assert same[:, 32:-16].sum(1).tolist() == [0, 24, 48]
    assert same[1, 32:56].all()  # the most uncertain ones stay
    assert weight[:, 32:-16].sum(1).tolist() == [48, 24 + 0.5 * 24, 48]
    assert (weight[1, 32:56] == 0.5).all()


def test_mask_terms_with_full_support_are_the_plain_ones() -> None:
    logits, masks = uneven_masks(2).reshape(1, 2, 16, 16), padded().masks_BMHW
    plain = mask_terms(logits, masks, BOXES[None], POINTS, generator())
    full = mask_terms(logits, masks, BOXES[None], POINTS, generator(), torch.ones(1, 2))
    for a, b in zip(plain, full, strict=True):
        torch.testing.assert_close(a, b)


def test_uncertain_regions_cost_less_without_support() -> None:
    """A mask that is sure and right but for one undecided patch."""
    masks = padded().masks_BMHW[:, :1]
    logits = 20 * torch.nn.functional.avg_pool2d(masks, 4) - 10
    logits[..., 10:14, 10:14] = 0.01
    config = PointConfig(count=256, importance=0.75, in_box=0)
    costs = [
        float(mask_terms(logits, masks, BOXES[None, :1], config, generator(), support)[0])
        for support in (torch.tensor([[0.05]]), torch.tensor([[0.5]]), torch.tensor([[1.0]]))
    ]
    assert costs[0] < 0.5 * costs[1] < 0.5 * costs[2]


def test_support_is_the_confidence_in_the_own_name_and_has_no_gradient() -> None:
    layer = dataclasses.replace(
        stage(BOXES),
        logits_BQK=torch.tensor([[[1.0, 4.0], [2.0, -1.0]]]).requires_grad_(),
        object_logits_BQ=torch.tensor([[0.5, -0.5]]).requires_grad_(),
    )
    columns = torch.tensor([[[True, False], [False, False]]])
    found = answer_confidence(layer, torch.tensor([[0, 1]]), columns)
    one = torch.tensor([1.0, 0.5]).sigmoid().prod().sqrt()
    torch.testing.assert_close(found[0], torch.stack([one, torch.tensor(-0.5).sigmoid()]))
    assert not found.requires_grad
    assert answer_confidence(layer, torch.tensor([[1]]), columns[:, :1, :0]).shape == (1, 1)


def test_region_weighting_changes_the_mask_terms_alone() -> None:
    layers = [stage(torch.cat([BOXES, BOXES * 0.9]))]
    plain, weighted = run(layers), run(layers, region_weighting=True)
    assert weighted["mask"] != plain["mask"]
    assert torch.equal(weighted["class"], plain["class"])
    assert torch.equal(weighted["quality"], plain["quality"])
