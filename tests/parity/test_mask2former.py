"""Matching and losses against transformers: Mask2Former's masks, DETR's boxes, DEIM's confidence.

The references draw their points from torch's global generator; ours take one. With the same seed
both draw the same numbers, so every comparison is between whole computations on equal inputs.
"""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mobius_seg.calibration import confidence_loss
from mobius_seg.data.sample import Target
from mobius_seg.losses import Criterion, LossConfig
from mobius_seg.matcher import (
    assign,
    box_iou_giou,
    cxcywh_to_xyxy,
    focal_cost,
    pairwise_dice_cost,
    pairwise_mask_cost,
)
from mobius_seg.points import PointConfig, point_sample, sample_mask_points
from mobius_seg.targets import pad_targets
from mobius_seg.torchvision_shim import ensure_torchvision_ops
from mobius_seg.types import LayerOutput, ModelOutput, TextPrompt

ensure_torchvision_ops()

from transformers import Mask2FormerConfig  # noqa: E402
from transformers.loss import loss_for_object_detection as detr  # noqa: E402
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher  # noqa: E402
from transformers.loss.loss_deimv2 import Deimv2Loss  # noqa: E402
from transformers.loss.loss_rt_detr import RTDetrLoss  # noqa: E402
from transformers.models.mask2former import modeling_mask2former as m2f  # noqa: E402

B, Q, M, P, SIDE = 2, 9, 4, 96, 32
WEIGHTS = {"loss_cross_entropy": 0.0, "loss_mask": 5.0, "loss_dice": 5.0}


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def boxes(*shape: int) -> Tensor:
    """Random boxes cxcywh inside the image."""
    center, size = torch.rand(*shape, 2) * 0.5 + 0.25, torch.rand(*shape, 2) * 0.4 + 0.05
    return torch.cat([center, size], -1)


def masks() -> Tensor:
    """Blocky random masks [B, M, 4 * SIDE, 4 * SIDE]."""
    coarse = torch.rand(B, M, 8, 8) > 0.5
    return coarse.repeat_interleave(SIDE // 2, 2).repeat_interleave(SIDE // 2, 3)


def predictions() -> tuple[LayerOutput, Tensor]:
    """One stage's predictions without names, and mask features."""
    layer = LayerOutput(
        torch.zeros(B, Q, 0), 2 * torch.randn(B, Q), boxes(B, Q), torch.randn(B, Q, 5)
    )
    return layer, torch.randn(B, 5, SIDE, SIDE)


def targets(masks_BMHW: Tensor | None, boxes_BM4: Tensor, columns: int = 0) -> list[Target]:
    return [
        Target(
            boxes_M4=boxes_BM4[b],
            masks_MHW=None if masks_BMHW is None else masks_BMHW[b],
            columns_MK=torch.zeros(M, columns, dtype=torch.bool),
            known_K=torch.zeros(columns, dtype=torch.bool),
            has_object=True,
        )
        for b in range(B)
    ]


def criterion(**changes: Any) -> Criterion:
    """Only the mask terms, with Mask2Former's way of drawing points."""
    points = PointConfig(count=P, in_box=0, match_uniform=P, match_per_target=0)
    off = {"classification": 0.0, "box": 0.0, "giou": 0.0, "dense": 0.0}
    return Criterion(LossConfig(**{**off, "points": points, **changes}))


def reference_loss() -> m2f.Mask2FormerLoss:
    config = Mask2FormerConfig(
        num_labels=1,
        class_weight=0.0,
        mask_weight=5.0,
        dice_weight=5.0,
        train_num_points=P,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )
    return m2f.Mask2FormerLoss(config, WEIGHTS)


def test_pairwise_costs() -> None:
    logits, labels = 4 * torch.randn(Q, P), torch.rand(M, P)
    ours = pairwise_mask_cost(logits[None], labels[None])[0]
    theirs = m2f.pair_wise_sigmoid_cross_entropy_loss(logits, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    ours = pairwise_dice_cost(logits[None], labels[None])[0]
    torch.testing.assert_close(ours, m2f.pair_wise_dice_loss(logits, labels), rtol=1e-5, atol=1e-6)


def test_point_sample() -> None:
    maps, points = torch.randn(3, 2, 9, 7), torch.rand(3, P, 2) * 1.2 - 0.1
    theirs = m2f.sample_point(maps, points, align_corners=False)
    torch.testing.assert_close(point_sample(maps, points), theirs, rtol=0, atol=0)


def test_uncertain_points() -> None:
    logits = torch.randn(M, 1, SIDE, SIDE)
    torch.manual_seed(5)
    reference = reference_loss()
    theirs = reference.sample_points_using_uncertainty(
        logits, reference.calculate_uncertainty, P, 3.0, 0.75
    )
    generator = torch.Generator().manual_seed(5)
    config = PointConfig(count=P, in_box=0)
    ours, in_box = sample_mask_points(logits, boxes(M), config, generator)
    assert in_box == 0
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_assignment_by_masks(seed: int) -> None:
    torch.manual_seed(seed)
    (layer, features), wanted = predictions(), masks()
    output = ModelOutput([layer], features, torch.zeros(1, 0, 5))
    torch.manual_seed(seed + 100)
    matcher = m2f.Mask2FormerHungarianMatcher(0.0, 5.0, 5.0, P)
    labels = [torch.zeros(M, dtype=torch.long)] * B
    theirs = matcher(output.mask_logits(), torch.zeros(B, Q, 2), list(wanted.float()), labels)
    generator = torch.Generator().manual_seed(seed + 100)
    prompt, size = TextPrompt.everything(5), (4 * SIDE, 4 * SIDE)
    padded = pad_targets(targets(wanted, boxes(B, M)), prompt, size, torch.device("cpu"))
    ours = criterion().match(layer, features, padded, generator)
    for b, (query, target) in enumerate(theirs):
        assert ours[b, target].tolist() == query.tolist()


def test_mask_losses_from_matching_to_sum() -> None:
    """Both criteria from logits and masks to the two losses, points of both steps included."""
    (layer, features), wanted = predictions(), masks()
    embed = layer.mask_embed_BQM.requires_grad_()
    logits = torch.einsum("bqm,bmhw->bqhw", embed, features)
    reference = reference_loss()
    labels = [torch.zeros(M, dtype=torch.long)] * B
    # Theirs lists pairs by query, ours by target: put the targets in the order of their queries.
    torch.manual_seed(9)
    pairs = reference.matcher(logits, torch.zeros(B, Q, 2), list(wanted.float()), labels)
    wanted = torch.stack([wanted[b, target] for b, (_, target) in enumerate(pairs)])
    torch.manual_seed(9)
    theirs = reference(logits, torch.zeros(B, Q, 2), list(wanted.float()), labels)
    output = ModelOutput([layer], features, torch.zeros(1, 0, 5))
    generator = torch.Generator().manual_seed(9)
    prompt = TextPrompt.everything(5)
    ours = criterion()(output, targets(wanted, boxes(B, M)), prompt, generator)
    torch.testing.assert_close(ours["mask"], theirs["loss_mask"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours["dice"], theirs["loss_dice"], rtol=1e-5, atol=1e-6)
    (mine,) = torch.autograd.grad(ours["loss"], embed, retain_graph=True)
    (other,) = torch.autograd.grad(5 * theirs["loss_mask"] + 5 * theirs["loss_dice"], embed)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_assignment_by_class_and_boxes(seed: int) -> None:
    """Deformable DETR's focal class cost, L1 and GIoU; samples without masks use just these."""
    torch.manual_seed(seed)
    (layer, features), wanted = predictions(), boxes(B, M)
    columns = 3
    logits, names = 3 * torch.randn(B, Q, columns), torch.randint(0, columns, (B, M))
    layer = LayerOutput(logits, torch.zeros(B, Q), layer.boxes_BQ4, layer.mask_embed_BQM)
    matcher = DeformableDetrHungarianMatcher(class_cost=2.0, bbox_cost=5.0, giou_cost=2.0)
    theirs = matcher(
        {"logits": logits, "pred_boxes": layer.boxes_BQ4},
        [{"class_labels": names[b], "boxes": wanted[b]} for b in range(B)],
    )
    prompt = TextPrompt(torch.randn(1, columns, 5))
    padded = pad_targets(
        targets(None, wanted, columns), prompt, (4 * SIDE, 4 * SIDE), torch.device("cpu")
    )
    padded.columns_BMK.copy_(torch.nn.functional.one_hot(names, columns).bool())
    # Our class cost is the mean with the object column, which is equal for all queries here.
    ours = criterion(classification=4.0, box=5.0, giou=2.0).match(layer, features, padded)
    for b, (query, target) in enumerate(theirs):
        assert ours[b, target].tolist() == query.tolist()


def test_boxes() -> None:
    a, b = boxes(Q), boxes(M)
    iou, giou = box_iou_giou(cxcywh_to_xyxy(a)[:, None], cxcywh_to_xyxy(b)[None])
    corners = detr.center_to_corners_format
    torch.testing.assert_close(giou, detr.generalized_box_iou(corners(a), corners(b)))
    torch.testing.assert_close(iou, detr.box_iou(corners(a), corners(b))[0])


def test_focal_cost_and_loss() -> None:
    logits = 4 * torch.randn(Q, M)
    labels = (torch.rand(Q, M) > 0.5).float()
    theirs = detr.sigmoid_focal_loss(logits, labels, 1) * M
    positive = labels.bool()
    ours = confidence_loss(logits, torch.rand(Q, M), positive, "focal").sum()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    both = [
        confidence_loss(logits, labels, torch.full_like(positive, value), "focal")
        for value in (True, False)
    ]
    torch.testing.assert_close(focal_cost(logits), both[0] - both[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["mal", "varifocal"])
def test_confidence_loss(kind: str) -> None:
    """DEIM's matchability-aware and RT-DETR's varifocal loss, with the IoU of matched boxes."""
    names, logits, predicted = torch.randint(0, 3, (M,)), 3 * torch.randn(1, Q, 3), boxes(1, Q)
    wanted, queries = boxes(M), torch.randperm(Q)[:M]
    state = SimpleNamespace(num_classes=3, gamma=1.5, mal_alpha=None, alpha=0.75)
    state._get_source_permutation_idx = lambda _: (torch.zeros(M, dtype=torch.long), queries)
    if kind == "varifocal":
        state.gamma = 2.0
    function = Deimv2Loss.loss_labels_mal if kind == "mal" else RTDetrLoss.loss_labels_vfl
    theirs = function(
        state,
        {"logits": logits, "pred_boxes": predicted},
        [{"class_labels": names, "boxes": wanted}],
        [(queries, torch.arange(M))],
        float(M),
    )
    matched = cxcywh_to_xyxy(predicted[0, queries])
    quality, positive = torch.zeros(1, Q, 3), torch.zeros(1, Q, 3, dtype=torch.bool)
    quality[0, queries, names] = box_iou_giou(matched, cxcywh_to_xyxy(wanted))[0]
    positive[0, queries, names] = True
    ours = confidence_loss(logits, quality, positive, kind).sum() / M  # type: ignore[arg-type]
    torch.testing.assert_close(ours, next(iter(theirs.values())), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_costs_that_are_not_finite_come_last(bad: float) -> None:
    """As transformers has it: such a pair is taken only if nothing else is left."""
    cost = torch.rand(1, 5, 3)
    cost[0, 2] = bad
    query = assign(cost, torch.ones(1, 3, dtype=torch.bool))
    assert 2 not in query.tolist()[0]
    crowded = assign(cost[:, 1:4], torch.ones(1, 3, dtype=torch.bool))
    assert sorted(crowded.tolist()[0]) == [0, 1, 2]
