"""Windows of Swin backbones with tensors of at most rank 4, where timm makes them of rank 6.

Converters for phones and some compilers of servers stop at rank 5. Rows are cut first, then columns
with their channels as one dimension, so that no step holds more.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mobius_seg.torchvision_shim import ensure_torchvision_ops


def partition_windows(x_BHWC: Tensor, window_size: tuple[int, int]) -> Tensor:
    """[B, H, W, C] -> windows [B * H / h * W / w, h, w, C] of size (h, w), row by row.

    Sides are multiples of the window's: timm pads to whole windows before it calls this.
    """
    width, channels = x_BHWC.shape[2:]
    rows, columns = window_size
    x = x_BHWC.reshape(-1, rows, width // columns, columns * channels).transpose(1, 2)
    return x.reshape(-1, rows, columns, channels)


def join_windows(windows: Tensor, window_size: tuple[int, int], height: int, width: int) -> Tensor:
    """The inverse of :func:`partition_windows`.

    Args:
        windows: [B * H / h * W / w, h, w, C].
        window_size: (h, w).
        height: H.
        width: W.

    Returns:
        [B, H, W, C].
    """
    rows, columns = window_size
    channels = windows.shape[3]
    x = windows.reshape(-1, width // columns, rows, columns * channels).transpose(1, 2)
    return x.reshape(-1, height, width, channels)


@contextmanager
def low_rank_windows() -> Iterator[None]:
    """While it lasts, timm's Swin blocks cut and join their windows with the functions above."""
    ensure_torchvision_ops()
    from timm.models import swin_transformer

    swin: Any = swin_transformer
    kept = swin.window_partition, swin.window_reverse
    swin.window_partition, swin.window_reverse = partition_windows, join_windows
    try:
        yield
    finally:
        swin.window_partition, swin.window_reverse = kept


class PatchMerging(nn.Module):
    """Merges patches of 2 x 2, for maps whose sides are even.

    Args:
        merging: of timm; its weights are shared.
    """

    def __init__(self, merging: Any) -> None:
        """See the class."""
        super().__init__()
        self.norm: nn.Module = merging.norm
        self.reduction: nn.Module = merging.reduction

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H / 2, W / 2, D]."""
        parts = [x_BHWC[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(parts, -1)))
        return merged


def with_low_rank_merging(module: nn.Module) -> None:
    """Put :class:`PatchMerging` in the place of every one of timm's.

    Args:
        module: changed in place.
    """
    ensure_torchvision_ops()
    from timm.models import swin_transformer

    for name, child in list(module.named_children()):
        if isinstance(child, swin_transformer.PatchMerging):
            setattr(module, name, PatchMerging(child))
        else:
            with_low_rank_merging(child)
