"""The name map and its pooling under masks."""

import pytest
import torch
from torch import Tensor

from mobius_seg.naming import NameEvidence, NameMap, box_cover, pool_names


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_map_adds_the_coarse_level_to_the_fine_one() -> None:
    torch.manual_seed(0)
    module = NameMap(6, 10, 4, 16)
    fine, coarse = normal(2, 6, 4, 6), normal(2, 10, 1, 1).expand(2, 10, 2, 3)
    out = module(fine, coarse)
    assert out.shape == (2, 4, 4, 6)
    flat = module.coarse(coarse)[:, :, :1, :1]  # a coarse map that is the same everywhere
    torch.testing.assert_close(out, module.fine(fine) + flat, rtol=1e-4, atol=1e-5)


def test_map_at_stride_32_is_the_mean_of_what_stride_16_says() -> None:
    torch.manual_seed(0)
    module = NameMap(6, 10, 4, 32)
    fine, coarse = normal(2, 6, 4, 6), normal(2, 10, 2, 3, seed=1)
    said = module.fine(fine).view(2, 4, 2, 2, 3, 2).mean((3, 5)) + module.coarse(coarse)
    out = module(fine, coarse)
    assert out.shape == (2, 4, 2, 3)
    torch.testing.assert_close(out, said, rtol=1e-4, atol=1e-5)
    assert module.state_dict().keys() == NameMap(6, 10, 4, 16).state_dict().keys()


@pytest.mark.parametrize(
    ("box", "covered"),
    [
        ([0.5, 0.5, 1.0, 1.0], [[1, 1], [1, 1]]),
        ([0.25, 0.5, 0.5, 1.0], [[1, 0], [1, 0]]),
        ([0.5, 0.5, 0.5, 0.5], [[0.25, 0.25], [0.25, 0.25]]),
        ([1.25, 0.5, 0.5, 1.0], [[0, 0], [0, 0]]),
    ],
)
def test_cover_is_the_part_of_the_cell(box: list[float], covered: list[list[float]]) -> None:
    cover = box_cover(torch.tensor(box).view(1, 1, 4), 2, 2)
    torch.testing.assert_close(cover.view(2, 2), torch.tensor(covered).float())


def test_cover_sums_to_the_area_of_the_box() -> None:
    boxes = torch.rand(1, 50, 4, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.3
    area = box_cover(boxes, 7, 5).sum(-1) / 35
    torch.testing.assert_close(area, boxes[..., 2] * boxes[..., 3], rtol=1e-4, atol=1e-5)


def test_pooling_reads_what_mask_and_box_agree_on() -> None:
    """Left and right halves differ; the box takes all, the mask only the right."""
    names = torch.zeros(1, 2, 4, 4)
    names[0, 0, :, :2] = names[0, 1, :, 2:] = 1
    features = torch.where(torch.arange(4).view(1, 1, 1, 4) < 2, -20.0, 20.0).expand(1, 1, 4, 4)
    whole = torch.tensor([[[0.5, 0.5, 1.0, 1.0]]])
    pooled = pool_names(names, torch.ones(1, 1, 1), features, whole)
    torch.testing.assert_close(pooled[0, 0], torch.tensor([0.05, 1.05]) / 1.1)
    left = torch.tensor([[[0.25, 0.5, 0.5, 1.0]]])
    pooled = pool_names(names, torch.ones(1, 1, 1), features, left)
    torch.testing.assert_close(pooled[0, 0], torch.tensor([1.0, 0.0]))


def test_names_teach_the_map_and_not_the_masks() -> None:
    names, embed = normal(1, 3, 4, 4).requires_grad_(), normal(1, 2, 5).requires_grad_()
    features, boxes = normal(1, 5, 4, 4).requires_grad_(), torch.full((1, 2, 4), 0.5)
    pool_names(names, embed, features, boxes.requires_grad_()).sum().backward()
    assert names.grad is not None
    assert bool(names.grad.any())
    assert embed.grad is None
    assert features.grad is None
    assert boxes.grad is None


def test_evidence_at_another_grid() -> None:
    evidence = NameEvidence.of(normal(2, 3, 4, 6), normal(2, 5, 16, 24), 16)
    assert evidence.mask_features_BMhw.shape == (2, 5, 4, 6)
    own = evidence.at(4, 6)
    assert torch.equal(own, evidence.names_BChw.flatten(2).transpose(1, 2))
    assert evidence.at(8, 12).shape == (2, 96, 3)


def test_evidence_reads_masks_at_the_stride_of_the_map() -> None:
    features = normal(2, 5, 16, 24)
    evidence = NameEvidence.of(normal(2, 3, 2, 3), features, 32)
    mean = features.view(2, 5, 2, 8, 3, 8).mean((3, 5))
    torch.testing.assert_close(evidence.mask_features_BMhw, mean, rtol=1e-4, atol=1e-5)
    pooled = evidence.under(normal(2, 7, 5), torch.full((2, 7, 4), 0.5))
    assert pooled.shape == (2, 7, 3)


def test_an_empty_box_gives_finite_vectors() -> None:
    out = pool_names(normal(1, 3, 4, 4), normal(1, 1, 5), normal(1, 5, 4, 4), torch.zeros(1, 1, 4))
    assert bool(torch.isfinite(out).all())
