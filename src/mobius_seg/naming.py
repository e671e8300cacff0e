"""What a picture shows where, as vectors to compare with names, read straight off the backbone.

Naming wants what classification taught the backbone; finding wants edges and extents. Features that
serve both learn names slowly, so names have a short path of their own: two 1x1 convolutions on the
deepest maps, pooled under each query's mask (as mask pooling does in FC-CLIP, Yu et al. 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.layers import rows_of, upsample

_FLOOR = 0.05  # share that a cell of the box keeps where the mask says no


class NameMap(nn.Module):
    """Backbone maps at strides 16 and 32 -> one map of name vectors at one of these strides.

    Args:
        fine: channels of the map at stride 16.
        coarse: channels of the map at stride 32.
        width: channels of a name vector, those of the projected text.
        stride: of the result, 16 or 32; at 32 the fine map is averaged before its convolution,
            which gives the mean of what the convolution says at stride 16 for a quarter of the
            cost.
    """

    def __init__(self, fine: int, coarse: int, width: int, stride: int) -> None:
        """See the class."""
        super().__init__()
        self.stride = stride
        self.fine = nn.Conv2d(fine, width, 1)
        self.coarse = nn.Conv2d(coarse, width, 1, bias=False)

    def forward(self, map16_BCHW: Tensor, map32_BCHW: Tensor) -> Tensor:
        """Maps at strides 16 and 32 -> [B, C, H / stride, W / stride]."""
        coarse: Tensor = self.coarse(map32_BCHW)
        if self.stride == 32:
            mean: Tensor = self.fine(F.avg_pool2d(map16_BCHW, 2))
            return mean + coarse
        fine: Tensor = self.fine(map16_BCHW)
        return fine + upsample(coarse, map16_BCHW.shape[2], map16_BCHW.shape[3])


@dataclass(frozen=True)
class NameEvidence:
    """Name vectors of a picture and what is needed to pool them under masks.

    Attributes:
        names_BChw: of :class:`NameMap`.
        mask_features_BMhw: mask features averaged to the stride of the name map.
    """

    names_BChw: Tensor
    mask_features_BMhw: Tensor

    @classmethod
    def of(cls, names_BChw: Tensor, mask_features_BMHW: Tensor, stride: int) -> Self:
        """From the name map, of a stride, and the mask features at stride 4."""
        return cls(names_BChw, F.avg_pool2d(mask_features_BMHW, stride // 4))

    def rows(self, images: Sequence[int]) -> Self:
        """The same for some images of the batch."""
        names, features = self.names_BChw, self.mask_features_BMhw
        return type(self)(rows_of(names, images), rows_of(features, images))

    def at(self, height: int, width: int) -> Tensor:
        """Name vectors at the cells of a grid: [B, height * width, C]."""
        return upsample(self.names_BChw, height, width).flatten(2).transpose(1, 2)

    def under(self, mask_embed_BQM: Tensor, boxes_BQ4: Tensor) -> Tensor:
        """Name vectors under the masks of queries, see :func:`pool_names`."""
        return pool_names(self.names_BChw, mask_embed_BQM, self.mask_features_BMhw, boxes_BQ4)


def pool_names(
    names_BChw: Tensor, mask_embed_BQM: Tensor, mask_features_BMhw: Tensor, boxes_BQ4: Tensor
) -> Tensor:
    """Name vector of each query: the mean over its box, weighted by its mask.

    The mask is read at the name map's stride, where it costs a sixteenth of a full mask or less;
    no gradient reaches it from here. A cell's weight is the part of it that the box covers, times
    the mask's probability (at least a floor, so that objects smaller than a cell are read as well).

    Args:
        names_BChw: of :class:`NameMap`.
        mask_embed_BQM: mask vectors of the queries.
        mask_features_BMhw: mask features averaged to the stride of the name map.
        boxes_BQ4: cxcywh in 0..1.

    Returns:
        [B, Q, C], not normalised.
    """
    with torch.no_grad():
        prob_BQN = torch.matmul(mask_embed_BQM, mask_features_BMhw.flatten(2)).sigmoid()
        cover_BQN = box_cover(boxes_BQ4, names_BChw.shape[2], names_BChw.shape[3])
        weight_BQN = (prob_BQN + _FLOOR) * cover_BQN
        weight_BQN = weight_BQN / weight_BQN.sum(-1, keepdim=True).clamp(min=1e-6)
    return torch.matmul(weight_BQN.to(names_BChw.dtype), names_BChw.flatten(2).transpose(1, 2))


def box_cover(boxes_BQ4: Tensor, height: int, width: int) -> Tensor:
    """Part of each cell of a grid that a box covers.

    Args:
        boxes_BQ4: cxcywh in 0..1.
        height: rows of the grid.
        width: columns of the grid.

    Returns:
        [B, Q, height * width] in 0..1; a box thinner than a thousandth of the picture counts as
        that thick.
    """
    x_BQw = _axis_cover(boxes_BQ4[..., 0], boxes_BQ4[..., 2], width)
    y_BQh = _axis_cover(boxes_BQ4[..., 1], boxes_BQ4[..., 3], height)
    return (y_BQh[..., :, None] * x_BQw[..., None, :]).flatten(2)


def _axis_cover(center_BQ: Tensor, side_BQ: Tensor, cells: int) -> Tensor:
    """Part of each of ``cells`` intervals of 0..1 that lies in the box's interval."""
    half = side_BQ.clamp(min=1e-3)[..., None] / 2
    low = torch.arange(cells, device=center_BQ.device, dtype=center_BQ.dtype) / cells
    start = torch.maximum(low, center_BQ[..., None] - half)
    end = torch.minimum(low + 1 / cells, center_BQ[..., None] + half)
    return (end - start).clamp(min=0) * cells
