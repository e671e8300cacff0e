"""Multi-scale deformable attention (Deformable DETR, Zhu et al. 2021) in plain torch."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.layers import cell_size, merge_heads


def deformable_sample(
    values_BhdHW: Sequence[Tensor], locations_BhQP2: Tensor, weights_BhQP: Tensor
) -> Tensor:
    """Multi-scale deformable attention (Deformable DETR, Zhu et al. 2021, eq. 3) on grid_sample.

    No tensor has a rank above five: batch and heads are one axis, levels and points are one axis.

    Args:
        values_BhdHW: one map [B * heads, D, H, W] per level.
        locations_BhQP2: [B * heads, Q, levels * points, 2] x and y in 0..1, levels outermost.
        weights_BhQP: [B * heads, Q, levels * points], summing to one.

    Returns:
        [B * heads, Q, D].
    """
    points = locations_BhQP2.shape[2] // len(values_BhdHW)
    grid = 2 * locations_BhQP2 - 1
    total = None
    for level, value in enumerate(values_BhdHW):
        part = slice(level * points, (level + 1) * points)
        sampled = F.grid_sample(
            value, grid[:, :, part], mode="bilinear", padding_mode="zeros", align_corners=False
        )
        summed = (sampled * weights_BhQP[:, None, :, part]).sum(-1)
        total = summed if total is None else total + summed
    assert total is not None, "at least one level"
    return total.transpose(1, 2)


class DeformableAttention(nn.Module):
    """Offsets and weights for :func:`deformable_sample`, from the query alone.

    Args:
        width: token width.
        heads: attention heads.
        levels: number of value maps.
        points: sampling points per head and level.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        """See the class."""
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.out = nn.Linear(width, width)
        self._reset()

    def _reset(self) -> None:
        """Offsets start as one ray per head, a step further per point (Zhu et al. 2021)."""
        angle = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        ray = torch.stack([angle.cos(), angle.sin()], -1)
        ray = ray / ray.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        start = ray[:, None, None, :] * steps[None, None, :, None]
        start = start.expand(self.heads, self.levels, self.points, 2)
        with torch.no_grad():
            self.offsets.weight.zero_()
            self.offsets.bias.copy_(start.reshape(-1))
            self.weights.weight.zero_()
            self.weights.bias.zero_()

    def forward(
        self, query_BQC: Tensor, reference_BQ4: Tensor, values_BhdHW: Sequence[Tensor]
    ) -> Tensor:
        """Read the value maps around each query's reference.

        Args:
            query_BQC: [B, Q, C].
            reference_BQ4: cxcywh in 0..1; offsets are in cells of a map where w and h are zero, and
                in halves of the box divided by the number of points where they are not.
            values_BhdHW: one map [B * heads, D, H, W] per level.

        Returns:
            [B, Q, C].
        """
        batch, count, _ = query_BQC.shape
        shape = (batch, count, self.heads, self.levels * self.points)
        offsets = self.offsets(query_BQC).reshape(batch, count, self.heads, -1)
        offsets = offsets.transpose(1, 2).reshape(batch * self.heads, count, shape[3], 2)
        weights = self.weights(query_BQC).reshape(shape).softmax(-1)
        weights = weights.transpose(1, 2).reshape(batch * self.heads, count, shape[3])
        reference = reference_BQ4.unsqueeze(1).expand(-1, self.heads, -1, -1).flatten(0, 1)
        cells = [
            cell_size(v.shape[2], v.shape[3], query_BQC).expand(self.points, 2)
            for v in values_BhdHW
        ]
        step = torch.cat(cells)[None, None]
        extent = reference[..., None, 2:]
        scale = torch.where(extent > 0, extent * (0.5 / self.points), step)
        locations = reference[..., None, :2] + offsets * scale
        read = deformable_sample(values_BhdHW, locations, weights)
        merged = merge_heads(read.reshape(batch, self.heads, count, -1))
        out: Tensor = self.out(merged)
        return out
