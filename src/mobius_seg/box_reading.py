"""What a query reads on a grid over its own box: two matrix products, nothing a converter rejects.

The grid of RoIAlign (He et al. 2017) without gathering: along each axis every cell of the grid is a
triangular window over the rows, or columns, of the map, so that a cell's value is the product of
the two windows and the map. Windows are as wide as a cell, at least as bilinear sampling, so that
large boxes are averaged and not picked from.

Shapes: B images, Q queries, R channels that are read, P cells a side, h and w of the map.
"""

import torch
from torch import Tensor, nn

from mobius_seg.config import ModelConfig

_CONTEXT = 1.5  # the grid spans the box enlarged so many times: a box too small sees what it misses


class BoxReader(nn.Module):
    """Reads a map under a grid over each box, for one decoder layer.

    Args:
        config: width, channels and cells.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        self.cells = config.box_grid
        self.out = nn.Linear(config.box_reading * config.box_grid**2, config.width)

    def forward(self, map_BRhw: Tensor, boxes_BQ4: Tensor) -> Tensor:
        """Map [B, R, h, w] and boxes [B, Q, 4], cxcywh in 0..1 -> [B, Q, C]."""
        grid_BQN = read_grid(map_BRhw, boxes_BQ4, self.cells)
        out: Tensor = self.out(grid_BQN)
        return out


def read_grid(map_BRhw: Tensor, boxes_BQ4: Tensor, cells: int) -> Tensor:
    """The map's mean under each cell of a grid over each box, zero outside the map.

    Args:
        map_BRhw: to be read.
        boxes_BQ4: cxcywh in 0..1; the grid spans them enlarged.
        cells: P of the grid, along each side.

    Returns:
        [B, Q, P * R * P], rows of the grid outermost.
    """
    batch, channels, height, width = map_BRhw.shape
    queries = boxes_BQ4.shape[1]
    rows = _windows(boxes_BQ4[..., 1::2], height, cells).to(map_BRhw.dtype)
    columns = _windows(boxes_BQ4[..., 0::2], width, cells).to(map_BRhw.dtype)
    by_row = map_BRhw.transpose(1, 2).reshape(batch, height, channels * width)
    read = rows.reshape(batch, queries * cells, height) @ by_row
    read = read.reshape(batch, queries, cells * channels, width) @ columns.transpose(2, 3)
    return read.flatten(2)


def _windows(side_BQ2: Tensor, length: int, cells: int) -> Tensor:
    """Weights [B, Q, P, length] of a map's lines: centre and side of the boxes along one axis."""
    center, side = side_BQ2[..., :1] * length, side_BQ2[..., 1:] * length * _CONTEXT
    step = side / cells
    place = torch.arange(cells, device=side_BQ2.device, dtype=side_BQ2.dtype) + 0.5
    at = (center - side / 2 + place * step)[..., None]  # [B, Q, P, 1] in lines of the map
    line = torch.arange(length, device=side_BQ2.device, dtype=side_BQ2.dtype) + 0.5
    reach = step.clamp(min=1.0)[..., None]
    return (1 - (line - at).abs() / reach).clamp(min=0) / reach
