"""Where masks are compared."""

import pytest
import torch

from mobius_seg.points import (
    PointConfig,
    box_points,
    enlarged_corners,
    point_sample,
    sample_mask_points,
)

BOXES = torch.tensor([[0.3, 0.6, 0.2, 0.4], [0.95, 0.5, 0.2, 0.1]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_point_sample_reads_cell_centres_and_between() -> None:
    maps = torch.arange(6.0).reshape(1, 1, 2, 3)
    points = torch.tensor([[[0.5 / 3, 0.25], [2.5 / 3, 0.75], [1 / 3, 0.25], [0.5 / 3, 0.5]]])
    torch.testing.assert_close(point_sample(maps, points)[0, 0], torch.tensor([0.0, 5.0, 0.5, 1.5]))


def test_enlarged_corners_stay_in_the_image() -> None:
    low, high = enlarged_corners(BOXES, 1.5)
    torch.testing.assert_close(low, torch.tensor([[0.15, 0.3], [0.8, 0.425]]))
    torch.testing.assert_close(high, torch.tensor([[0.45, 0.9], [1.0, 0.575]]))


def test_box_points_fill_the_box() -> None:
    points = box_points(BOXES, 4000, generator(), 1.5)
    low, high = enlarged_corners(BOXES, 1.5)
    assert points.shape == (2, 4000, 2)
    assert bool(((points >= low[:, None]) & (points <= high[:, None])).all())
    torch.testing.assert_close(points.mean(1), (low + high) / 2, rtol=0, atol=0.01)
    spread = (high - low) / 12**0.5
    torch.testing.assert_close(points.std(1), spread, rtol=0.05, atol=0)


@pytest.mark.parametrize(("in_box", "importance"), [(40, 0.75), (0, 0.75), (40, 0.0), (0, 0.0)])
def test_numbers_and_order_of_mask_points(in_box: int, importance: float) -> None:
    config = PointConfig(count=32, in_box=in_box, importance=importance)
    logits = torch.randn(2, 1, 16, 16, generator=generator(1))
    points, first = sample_mask_points(logits, BOXES, config, generator())
    assert points.shape == (2, in_box + 32, 2)
    assert first == in_box
    low, high = enlarged_corners(BOXES)
    inside = points[:, :first]
    assert bool(((inside >= low[:, None]) & (inside <= high[:, None])).all())
    assert bool(((points >= 0) & (points <= 1)).all())


def test_uncertain_points_lie_on_the_edge() -> None:
    logits = torch.linspace(-8, 8, 33).expand(1, 1, 33, 33)  # zero in the middle column
    config = PointConfig(count=64, in_box=0, importance=0.75, oversample=4.0)
    points, _ = sample_mask_points(logits, BOXES[:1], config, generator())
    far = (points[0, :, 0] - 0.5).abs()
    assert far[:48].mean() < 0.1
    assert far[48:].mean() > 0.15


def test_the_generator_decides_alone() -> None:
    logits, state = torch.randn(2, 1, 8, 8, generator=generator(1)), torch.get_rng_state()
    first, second, other = (
        sample_mask_points(logits, BOXES, PointConfig(), generator(seed))[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
