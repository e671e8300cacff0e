"""Windows of Swin backbones in tensors of low rank."""

import copy

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mobius_seg.export.windows import (
    join_windows,
    low_rank_windows,
    partition_windows,
    with_low_rank_merging,
)
from mobius_seg.torchvision_shim import ensure_torchvision_ops

ensure_torchvision_ops()

from timm.models import swin_transformer  # noqa: E402 - timm imports torchvision


class HighestRank(TorchDispatchMode):
    """Remembers the highest rank of a result."""

    rank = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.rank = max(self.rank, result.dim())
        return result


@pytest.mark.parametrize("window", [(7, 7), (2, 3)])
def test_windows_are_timms_and_come_back(window: tuple[int, int]) -> None:
    maps = torch.randn(2, 14, 21, 3)
    windows = partition_windows(maps, window)
    assert torch.equal(windows, swin_transformer.window_partition(maps, window))
    assert torch.equal(join_windows(windows, window, 14, 21), maps)


def test_a_swin_says_the_same_and_its_functions_are_put_back() -> None:
    torch.manual_seed(0)
    swin = swin_transformer.SwinTransformer(
        img_size=32, patch_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 2), window_size=4
    ).eval()
    low = copy.deepcopy(swin)
    with_low_rank_merging(low)
    pictures = torch.randn(2, 3, 32, 32)
    before = swin_transformer.window_partition
    with torch.no_grad(), HighestRank() as usual:
        expected = swin.forward_features(pictures)
    with torch.no_grad(), low_rank_windows(), HighestRank() as ours:
        found = low.forward_features(pictures)
    assert torch.equal(found, expected)
    assert usual.rank == 6
    assert ours.rank <= 5
    assert swin_transformer.window_partition is before
