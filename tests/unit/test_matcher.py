"""Costs and the assignment."""

import itertools
import math

import pytest
import torch

from mobius_seg.matcher import (
    assign,
    box_iou_giou,
    cxcywh_to_xyxy,
    focal_cost,
    pairwise_dice_cost,
    pairwise_mask_cost,
)


def test_mask_costs_by_hand() -> None:
    logits = torch.tensor([[[math.log(3.0), -math.log(3.0)]]])  # p = 3/4, 1/4
    labels = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    right, wrong = -math.log(0.75), -math.log(0.25)
    assert pairwise_mask_cost(logits, labels)[0, 0].tolist() == pytest.approx([right, wrong])
    dice = [1 - (1.5 + 1) / (1 + 1 + 1), 1 - (0.5 + 1) / (1 + 1 + 1)]
    assert pairwise_dice_cost(logits, labels)[0, 0].tolist() == pytest.approx(dice)


def test_focal_cost_by_hand() -> None:
    p = 0.75
    positive = -0.25 * (1 - p) ** 2 * math.log(p)
    negative = -0.75 * p**2 * math.log(1 - p)
    cost = focal_cost(torch.tensor(math.log(3.0)))
    assert float(cost) == pytest.approx(positive - negative, rel=1e-5)
    falling = focal_cost(torch.linspace(-6, 6, 25))
    assert bool((falling.diff() < 0).all())


def test_boxes_by_hand() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.2], [0.5, 0.5, -0.4, 0.2]])
    corners = cxcywh_to_xyxy(boxes)
    torch.testing.assert_close(corners[0], torch.tensor([0.3, 0.4, 0.7, 0.6]))
    torch.testing.assert_close(corners[1], torch.tensor([0.5, 0.4, 0.5, 0.6]))
    a, b, c = torch.tensor([[0, 0, 2, 2], [1, 0, 3, 2], [4, 0, 6, 2]], dtype=torch.float32)
    assert [float(x) for x in box_iou_giou(a, a)] == pytest.approx([1, 1])
    assert [float(x) for x in box_iou_giou(a, b)] == pytest.approx([1 / 3, 1 / 3])
    assert [float(x) for x in box_iou_giou(a, c)] == pytest.approx([0, -1 / 3])


def test_boxes_without_an_area_give_numbers() -> None:
    point = torch.tensor([0.5, 0.5, 0.5, 0.5])
    for pair in ((point, point), (point, torch.tensor([0.0, 0.0, 1.0, 1.0]))):
        assert all(torch.isfinite(value) for value in box_iou_giou(*pair))


@pytest.mark.parametrize("seed", range(5))
def test_assignment_has_the_least_total_cost(seed: int) -> None:
    cost = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(seed))
    query = assign(cost, torch.ones(2, 3, dtype=torch.bool))
    for b in range(2):
        best = min(
            sum(float(cost[b, q, m]) for m, q in enumerate(order))
            for order in itertools.permutations(range(5), 3)
        )
        assert len(set(query[b].tolist())) == 3
        assert float(cost[b, query[b], torch.arange(3)].sum()) == pytest.approx(best, rel=1e-5)


def test_padding_and_too_many_targets() -> None:
    cost = torch.tensor([[[0.0, 5.0, 1.0], [5.0, 0.0, 2.0]]])
    valid = torch.tensor([[True, False, True]])
    assert assign(cost, valid).tolist() == [[0, -1, 1]]
    assert assign(cost, ~valid).tolist() == [[-1, 1, -1]]
    assert assign(cost, torch.ones(1, 3, dtype=torch.bool)).tolist() == [[0, 1, -1]]
    assert assign(cost, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[-1, -1, -1]]
    assert assign(cost[:, :0], valid).tolist() == [[-1, -1, -1]]
