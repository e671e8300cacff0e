"""Batch norms that stay as they are, inside the convolutions before them, for training.

A frozen batch norm is a factor and a shift. Applied to the kernel instead of to the map it costs
nothing, forward or backward; its own weights and biases still learn through the product. Names of
parameters and buffers, and so everything stored, are unchanged.
"""

import copy
import itertools
import logging
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.backbone import Backbone
from mobius_seg.export.padding import PaddedConv
from mobius_seg.train.depthwise import depthwise_conv

_PROBE = 64  # side of the picture that the folded backbone is compared on
_TOLERANCE = 1e-3  # of the largest value; other rounding shows about 1e-5

logger = logging.getLogger(__name__)


def fold_norms(backbone: Backbone) -> int:
    """Fold the batch norms of a backbone whose ``freeze_norm`` is set.

    A convolution and the batch norm that follows it in its module are taken for a pair; if a copy
    of the backbone does not give the same maps with all pairs folded, nothing is changed.

    Args:
        backbone: changed in place.

    Returns:
        Number of pairs folded.
    """
    pairs = _pairs(backbone.body)
    if not backbone.freeze_norm or not pairs:
        return 0
    difference = _difference(backbone)
    if not difference <= _TOLERANCE:  # weights may hold NaN
        logger.info("batch norms stay layers: folded, maps would differ by %.2g", difference)
        return 0
    _fold(pairs)
    return len(pairs)


class FoldedNorm(nn.Module):
    """What a frozen batch norm leaves behind: its numbers, under their names, and its activation.

    Args:
        norm: in evaluation mode; its parameters and buffers are shared.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        """See the class."""
        super().__init__()
        self.eps = norm.eps
        self.weight, self.bias = norm.weight, norm.bias
        for name, value in norm.named_buffers(recurse=False):
            self.register_buffer(name, value)
        for name, child in norm.named_children():  # timm's activation, and nothing else
            self.add_module(name, child)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """What follows the norm: [B, C, H, W] -> [B, C, H, W]."""
        for child in self.children():
            x_BCHW = child(x_BCHW)
        return x_BCHW

    def factor_and_shift(self) -> tuple[Tensor, Tensor]:
        """The norm as numbers, [C] each."""
        mean, variance = self.get_buffer("running_mean"), self.get_buffer("running_var")
        factor = self.weight * (variance + self.eps).rsqrt()
        return factor, self.bias - mean * factor


class FoldedConv(nn.Module):
    """A convolution that applies a frozen batch norm to its kernel.

    Args:
        conv: without a bias; its kernel is shared.
        norm: what follows it.
    """

    def __init__(self, conv: nn.Conv2d, norm: FoldedNorm) -> None:
        """See the class."""
        super().__init__()
        self.weight = conv.weight
        self.stride, self.dilation, self.groups = conv.stride, conv.dilation, conv.groups
        plain = type(conv) is nn.Conv2d
        self.padding = conv.padding if plain else (0, 0)
        self.pad: list[int] = [] if plain else PaddedConv(conv).pad
        self._norm = (norm,)  # in a tuple, so that its numbers keep the one name they have
        square = conv.kernel_size[0] == conv.kernel_size[1] and self.dilation == (1, 1)
        depthwise = self.groups == len(self.weight) > 1
        self._swift = depthwise and square and not isinstance(self.padding, str)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, D, H', W']."""
        factor, shift = self._norm[0].factor_and_shift()
        weight = self.weight * factor.view(-1, 1, 1, 1)
        if self.pad:
            x_BCHW = F.pad(x_BCHW, self.pad)
        if self._swift and _computes_bf16(x_BCHW):
            stride, padding = tuple(self.stride), tuple(self.padding)
            return depthwise_conv(x_BCHW, weight, shift, stride, padding)  # type: ignore[arg-type]
        return F.conv2d(
            x_BCHW, weight, shift, self.stride, self.padding, self.dilation, self.groups
        )


def _computes_bf16(x: Tensor) -> bool:
    """Whether convolutions of the CPU run in bfloat16 here."""
    autocast = torch.is_autocast_enabled("cpu") and x.device.type == "cpu"
    return autocast and torch.get_autocast_dtype("cpu") is torch.bfloat16


def _pairs(body: nn.Module) -> list[tuple[nn.Module, str, str]]:
    """Modules with the names of a convolution and of the batch norm right after it."""
    from timm import layers

    kinds: Any = (nn.Conv2d, layers.Conv2dSame)  # type: ignore[attr-defined]
    found = []
    for parent in body.modules():
        children: list[tuple[str, Any]] = list(parent.named_children())
        for (first, conv), (second, norm) in itertools.pairwise(children):
            if type(conv) not in kinds or not isinstance(norm, nn.BatchNorm2d):
                continue
            if conv.bias is None and norm.num_features == conv.out_channels and norm.affine:
                found.append((parent, first, second))
    return found


def _fold(pairs: list[tuple[nn.Module, str, str]]) -> None:
    """Put folded layers in the places of what :func:`_pairs` found."""
    for parent, first, second in pairs:
        norm = FoldedNorm(getattr(parent, second))
        setattr(parent, first, FoldedConv(getattr(parent, first), norm))
        setattr(parent, second, norm)


@torch.no_grad()
def _difference(backbone: Backbone) -> float:
    """How far folding moves the maps of a picture of noise, over the largest value of each.

    It is tried on a copy on the CPU, whose float32 is not shortened as a GPU's may be; infinite
    where the backbone does not take that picture, folded or not.
    """
    twin = copy.deepcopy(backbone).cpu().eval()
    picture = torch.rand(1, 3, _PROBE, _PROBE, generator=torch.Generator().manual_seed(0))
    try:
        before = twin(picture)
        _fold(_pairs(twin.body))
        after = twin(picture)
    except (RuntimeError, AssertionError, KeyError):
        return math.inf
    return max(
        float((was - now).abs().max() / was.abs().max().clamp(min=1e-12))
        for was, now in zip(before, after, strict=True)
    )
