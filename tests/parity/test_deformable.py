"""Multi-scale deformable attention against transformers, with the same inputs and weights."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mobius_seg.deformable import DeformableAttention, deformable_sample
from mobius_seg.torchvision_shim import ensure_torchvision_ops

ensure_torchvision_ops()

from transformers.models.deformable_detr import (  # noqa: E402
    modeling_deformable_detr as deformable_detr,
)
from transformers.models.mask2former import modeling_mask2former as m2f  # noqa: E402

B, Q, C, HEADS, POINTS = 2, 7, 32, 4, 3
SHAPES = [(8, 6), (4, 3), (2, 5)]
LEVELS = len(SHAPES)


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def by_level(value_BNC: Tensor) -> list[Tensor]:
    """[B, N, C] -> one [B * heads, D, h, w] per level."""
    parts = value_BNC.split([h * w for h, w in SHAPES], 1)
    return [
        part.transpose(1, 2).reshape(B * HEADS, C // HEADS, h, w)
        for part, (h, w) in zip(parts, SHAPES, strict=True)
    ]


def test_sampling() -> None:
    count = sum(h * w for h, w in SHAPES)
    value = torch.randn(B, count, HEADS, C // HEADS)
    locations = torch.rand(B, Q, HEADS, LEVELS, POINTS, 2) * 1.4 - 0.2  # some lie outside
    weights = torch.rand(B, Q, HEADS, LEVELS, POINTS)
    first = m2f.multi_scale_deformable_attention(value, SHAPES, locations, weights)
    second = deformable_detr.MultiScaleDeformableAttention()(
        value, torch.tensor(SHAPES), SHAPES, None, locations, weights, 64
    )
    ours = deformable_sample(
        by_level(value.flatten(2)),
        locations.transpose(1, 2).reshape(B * HEADS, Q, LEVELS * POINTS, 2),
        weights.transpose(1, 2).reshape(B * HEADS, Q, LEVELS * POINTS),
    )
    ours = ours.reshape(B, HEADS, Q, -1).transpose(1, 2).reshape(B, Q, C)
    torch.testing.assert_close(ours, first, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, second, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("with_size", [False, True])
def test_attention_with_the_same_weights(with_size: bool) -> None:
    """References are points (offsets in cells) or boxes (offsets in shares of the box)."""
    reference = m2f.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(
        C, HEADS, LEVELS, POINTS
    )
    ours = DeformableAttention(C, HEADS, LEVELS, POINTS)
    for mine, theirs in (
        (ours.offsets, reference.sampling_offsets),
        (ours.weights, reference.attention_weights),
        (ours.out, reference.output_proj),
    ):
        torch.nn.init.normal_(theirs.weight, std=0.2)
        torch.nn.init.normal_(theirs.bias, std=0.5)
        mine.load_state_dict(theirs.state_dict())
    query = torch.randn(B, Q, C, requires_grad=True)
    memory = torch.randn(B, sum(h * w for h, w in SHAPES), C)
    boxes = torch.cat([torch.rand(B, Q, 2), torch.rand(B, Q, 2) * with_size], -1)
    points = (boxes if with_size else boxes[..., :2])[:, :, None].expand(-1, -1, LEVELS, -1)
    theirs, _ = reference(
        query,
        encoder_hidden_states=memory,
        reference_points=points,
        spatial_shapes_list=SHAPES,
    )
    read = ours(query, boxes, by_level(reference.value_proj(memory)))
    torch.testing.assert_close(read, theirs, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(read)
    (mine,) = torch.autograd.grad(read, query, upstream, retain_graph=True)
    (other,) = torch.autograd.grad(theirs, query, upstream)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_offsets_start_as_in_deformable_detr() -> None:
    """One ray per head, a step further per point, the same on every level."""
    attention = DeformableAttention(C, 8, LEVELS, POINTS)
    start = attention.offsets.bias.detach().reshape(8, LEVELS, POINTS, 2)
    rays = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for level in range(LEVELS):
        for point in range(POINTS):
            wanted = torch.tensor(rays, dtype=torch.float32) * (point + 1)
            torch.testing.assert_close(start[:, level, point], wanted, rtol=0, atol=1e-5)
    assert not attention.offsets.weight.any()
    assert not attention.weights.weight.any()
