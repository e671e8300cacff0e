"""Padding that follows from the size, written out."""

import pytest
import torch
from torch import nn

from mobius_seg.export.padding import PaddedConv, with_constant_padding
from mobius_seg.torchvision_shim import ensure_torchvision_ops

ensure_torchvision_ops()

from timm.layers import Conv2dSame  # noqa: E402 - timm imports torchvision


@pytest.mark.parametrize("kernel", [1, 3, 5, (3, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_it_is_the_same_where_sides_are_multiples(
    kernel: int | tuple[int, int], stride: int, dilation: int
) -> None:
    torch.manual_seed(0)
    conv = Conv2dSame(2, 4, kernel, stride=stride, dilation=dilation, groups=2)
    pictures = torch.randn(1, 2, 12, 16)
    assert torch.equal(PaddedConv(conv)(pictures), conv(pictures))


def test_such_convolutions_alone_are_replaced() -> None:
    module = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Sequential(Conv2dSame(1, 1, 3, stride=2)))
    pictures = torch.randn(1, 1, 18, 18)
    before = module(pictures)
    with_constant_padding(module)
    assert type(module[0]) is nn.Conv2d
    assert type(module[1][0]) is PaddedConv
    assert torch.equal(module(pictures), before)
