"""EfficientNet backbones in a wider and deeper form that gives the same maps (see grow.py)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mobius_seg.backbone import STRIDES, Backbone
from mobius_seg.errors import InputError

_LEAST_SHARE = 0.05  # so that no copy starts unread
_NORMS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Copies:
    """Channels of a wider layer: which of the narrower one each is a copy of.

    Attributes:
        index_N: old channel of each new one; the old ones come first.
        before: how many there were.
    """

    index_N: Tensor
    before: int

    @classmethod
    def draw(cls, before: int, after: int, what: str) -> "Copies":
        """Every old channel, and copies of some, all used once before any is used twice.

        Raises:
            InputError: there would be fewer channels than before.
        """
        if after < before:
            raise InputError(f"{what}: {before} channels do not fit into {after}")
        drawn = [torch.arange(before)]
        while sum(len(part) for part in drawn) < after:
            drawn.append(torch.randperm(before))
        return cls(torch.cat(drawn)[:after], before)

    def read(self, weight_OIkk: Tensor) -> Tensor:
        """What reads these channels: each weight in random shares of itself among the copies."""
        outputs, copies = len(weight_OIkk), len(self.index_N)
        parts_ON = torch.rand(outputs, copies) + _LEAST_SHARE
        total_OI = torch.zeros(outputs, self.before).index_add_(1, self.index_N, parts_ON)
        shares_ON = parts_ON / total_OI[:, self.index_N]
        shape = (outputs, copies, *[1] * (weight_OIkk.ndim - 2))
        return weight_OIkk[:, self.index_N] * shares_ON.reshape(shape)


def grow_backbone(source: Backbone, target: Backbone) -> list[Copies]:
    """Fill ``target`` so that its maps hold those of ``source`` and copies of their channels.

    Args:
        source: an EfficientNet of timm.
        target: one with the same stages, none narrower or shallower.

    Returns:
        The copies in the maps at strides 4, 8, 16, 32.

    Raises:
        InputError: the backbones are no EfficientNets of one family.
    """
    old, new = source.body, target.body
    if not all(hasattr(body, "conv_stem") and hasattr(body, "blocks") for body in (old, new)):
        raise InputError("the backbones are no EfficientNets of one family; allowed: those alone")
    if len(old.blocks) != len(new.blocks):
        raise InputError(
            f"the smaller backbone has {len(old.blocks)} stages, the larger one {len(new.blocks)};"
            " allowed: as many"
        )
    stream = Copies.draw(old.conv_stem.out_channels, new.conv_stem.out_channels, "stem")
    _copy(new.conv_stem.weight, old.conv_stem.weight[stream.index_N], "stem")
    _norm(new.bn1, old.bn1, stream)
    streams = []
    for number, (few, many) in enumerate(zip(old.blocks, new.blocks, strict=True)):
        stream = _grow_stage(few, many, stream, f"stage {number}")
        streams.append(stream)
    info: Any = new.feature_info
    names = info.module_name()
    at = [names[list(info.reduction()).index(stride)] for stride in STRIDES]
    return [streams[int(name.removeprefix("blocks."))] for name in at]


def _grow_stage(few: Any, many: Any, stream: Copies, what: str) -> Copies:
    """Blocks of a stage: those that were there, then some that add nothing yet."""
    if len(many) < len(few):
        raise InputError(f"{what}: {len(few)} blocks do not fit into {len(many)}")
    result: Copies | None = None
    for place, block in enumerate(many):
        model = few[min(place, len(few) - 1)]
        if type(block) is not type(model) or block.has_skip != model.has_skip:
            raise InputError(f"{what}: its blocks are of other kinds in the larger backbone")
        last = _last(block)
        if result is None:
            result = Copies.draw(_last(model)[0].out_channels, last[0].out_channels, what)
        _grow_block(model, block, stream, result, what)
        if place >= len(few):
            nn.init.zeros_(last[0].weight)
            last[1].reset_parameters()
            last[1].reset_running_stats()
        stream = result
    assert result is not None
    return result


def _last(block: Any) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """The convolution that ends a block, and its norm."""
    if hasattr(block, "conv_pwl"):
        return block.conv_pwl, block.bn3
    return block.conv_pw, block.bn2


def _grow_block(old: Any, new: Any, stream: Copies, result: Copies, what: str) -> None:
    """One block: widen its inside, read the stream that comes in, write the one that goes out."""
    if hasattr(old, "conv_pwl"):
        inside = Copies.draw(old.conv_dw.out_channels, new.conv_dw.out_channels, what)
        _copy(new.conv_pw.weight, stream.read(old.conv_pw.weight[inside.index_N]), what)
        _norm(new.bn1, old.bn1, inside)
        _norm(new.bn2, old.bn2, inside)
    else:
        inside = stream
        _norm(new.bn1, old.bn1, inside)
    _copy(new.conv_dw.weight, old.conv_dw.weight[inside.index_N], what)
    (small, small_norm), (large, large_norm) = _last(old), _last(new)
    _copy(large.weight, inside.read(small.weight[result.index_N]), what)
    _norm(large_norm, small_norm, result)


@torch.no_grad()
def _copy(into: Tensor, value: Tensor, what: str) -> None:
    if into.shape != value.shape:
        raise InputError(f"{what}: kernels of {list(value.shape)} do not become {list(into.shape)}")
    into.copy_(value)


@torch.no_grad()
def _norm(new: Any, old: Any, copies: Copies) -> None:
    for name in _NORMS:
        getattr(new, name).copy_(getattr(old, name)[copies.index_N])
