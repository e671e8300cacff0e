"""Convolutions that read the picture's size to know their padding, with that padding written out.

Backbones from TensorFlow pad at run time so that a side of n becomes ceil(n / stride) (timm's
``Conv2dSame``). Where sides are multiples of the stride, which inputs in multiples of 32 see to,
the padding is a constant. A graph of any size needs it as one: each such layer would nest the
expression of its input's size in its own, and torch.export does not come to an end over mobius-n.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.torchvision_shim import ensure_torchvision_ops


class PaddedConv(nn.Module):
    """A ``Conv2dSame`` for inputs whose sides are multiples of its stride.

    Args:
        conv: of timm; its weights are shared.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        """See the class."""
        super().__init__()
        self.conv = conv
        self.pad: list[int] = []
        for axis in (1, 0):  # F.pad takes the last dimension first
            reach = (conv.kernel_size[axis] - 1) * conv.dilation[axis] + 1
            total = max(0, reach - conv.stride[axis])
            self.pad += [total // 2, total - total // 2]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D, H / stride, W / stride]."""
        conv = self.conv
        padded = F.pad(x_BCHW, self.pad)
        return F.conv2d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def with_constant_padding(module: nn.Module) -> None:
    """Put :class:`PaddedConv` in the place of every convolution that pads by its input's size.

    Args:
        module: changed in place.
    """
    ensure_torchvision_ops()
    from timm import layers

    same: Any = layers.Conv2dSame  # type: ignore[attr-defined]
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d) and type(child) is same:
            setattr(module, name, PaddedConv(child))
        else:
            with_constant_padding(child)
