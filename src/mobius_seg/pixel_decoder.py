"""Bottleneck pixel decoder: gather, fuse, mix, scatter (docs/model.md, "Pixel decoder").

All scales meet, and meet the text, at one small bottleneck of stride b; the large maps see only
1x1 and depthwise convolutions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.config import ModelConfig
from mobius_seg.deformable import DeformableAttention
from mobius_seg.fusion import fuse_levels, text_fusion
from mobius_seg.layers import (
    ConvGroup,
    ConvNorm,
    FeedForward,
    SelfAttention,
    SeparableRefinement,
    WideRefinement,
    flatten_map,
    grid_centers,
    sine_position,
    upsample,
)


@dataclass(frozen=True)
class PixelDecoderOutput:
    """Maps after scatter.

    Attributes:
        maps: stride -> [B, C, H/stride, W/stride].
        mask_features_BMhw: [B, M, H/4, W/4].
        text_BTC: text tokens after fusion, the object token left out.
    """

    maps: dict[int, Tensor]
    mask_features_BMhw: Tensor
    text_BTC: Tensor


class PixelDecoder(nn.Module):
    """From backbone maps and text to decoder memory and mask features.

    Args:
        config: strides, widths and the form of mixing.
        channels: channels of the backbone's maps at strides 4, 8, 16, 32.

    Attributes:
        gate_layers: the gates as depthwise convolutions, in exported graphs alone (folding.py).
    """

    def __init__(self, config: ModelConfig, channels: tuple[int, ...]) -> None:
        """See the class."""
        super().__init__()
        width = config.width
        self.bottleneck_stride = config.bottleneck_stride
        self.strides = level_strides(config)
        self.lateral4 = ConvNorm(channels[0], config.mask_width)
        self.laterals = nn.ModuleDict(
            {str(s): ConvNorm(c, width) for s, c in zip((8, 16, 32), channels[1:], strict=True)}
        )
        if 64 in self.strides:
            self.laterals["64"] = ConvNorm(channels[3], width, 3, stride=2)
        self.gather = Gather(config, self.strides)
        self.fusion = config.fusion
        self.fuse = text_fusion(config)
        self.mix = nn.ModuleList(
            PlainMixing(config)
            if config.mixing == "plain"
            else DeformableMixing(config, self.strides)
            for _ in range(config.mixing_layers)
        )
        self.gates = nn.ParameterDict(
            {
                str(s): nn.Parameter(torch.full((width,), config.gate_init))
                for s in self.strides
                if s >= config.bottleneck_stride
            }
        )
        self.gate_layers: nn.ModuleDict | None = None
        self.refine = nn.ModuleDict({str(s): _refinement(config) for s in self.strides})
        light = config.mask_conv == 0
        self.to_mask = nn.Conv2d(width, config.mask_width, 1) if light else None
        self.refine4 = SeparableRefinement(config.mask_width) if light else None
        self.pyramid = None if light else PyramidStep(config, channels[0])
        last = config.mask_conv or config.mask_width
        self.mask_features = nn.Conv2d(last, config.mask_width, 1)

    def forward(
        self, maps: list[Tensor], text_BTC: Tensor, text_mask_BT: Tensor | None
    ) -> PixelDecoderOutput:
        """Fuse and refine.

        Args:
            maps: backbone maps at strides 4, 8, 16, 32.
            text_BTC: [B or 1, T, C] projected text tokens, the learned object token first.
            text_mask_BT: bool [B or 1, T], True = real; None = all.
        """
        lateral4 = self.lateral4(maps[0])
        laterals = {s: self.laterals[str(s)](m) for s, m in zip((8, 16, 32), maps[1:], strict=True)}
        if 64 in self.strides:
            laterals[64] = self.laterals["64"](maps[3])
        if self.fusion == "levels":
            laterals, text_BTC = fuse_levels(self.fuse, laterals, text_BTC, text_mask_BT)
        bottleneck = self.gather(lateral4, laterals)
        height, width = bottleneck.shape[2:]
        centers = grid_centers(height, width, bottleneck)
        position = sine_position(centers, bottleneck.shape[1]).to(bottleneck.dtype)[None]
        tokens = flatten_map(bottleneck)
        if self.fusion == "bottleneck":
            tokens, text_BTC = self.fuse(tokens, text_BTC, text_mask_BT)
        for layer in self.mix:
            tokens = layer(tokens, position, centers, laterals)
        mixed = tokens.transpose(1, 2).reshape(bottleneck.shape)
        scattered = self._scatter(mixed, laterals)
        if self.pyramid is not None:
            detail = self.pyramid(maps[0], scattered[8])
        else:
            assert self.to_mask is not None
            assert self.refine4 is not None
            detail = self.refine4(resize_like(self.to_mask(scattered[8]), lateral4) + lateral4)
        return PixelDecoderOutput(scattered, self.mask_features(detail), text_BTC[:, 1:])

    def _scatter(self, mixed: Tensor, laterals: dict[int, Tensor]) -> dict[int, Tensor]:
        """Gated residual at and above the bottleneck's stride, then down to stride 8."""
        scattered: dict[int, Tensor] = {}
        for stride in sorted(self.strides, reverse=True):
            lateral = laterals[stride]
            if stride >= self.bottleneck_stride:
                incoming = self._gated(stride, mixed, lateral)
            else:
                incoming = resize_like(scattered[stride * 2], lateral)
            scattered[stride] = self.refine[str(stride)](lateral + incoming)
        return scattered

    def _gated(self, stride: int, mixed: Tensor, lateral: Tensor) -> Tensor:
        """What of the bottleneck reaches a level."""
        if self.gate_layers is not None:
            gated: Tensor = self.gate_layers[str(stride)](mixed)
            return resample(gated, lateral)
        gate: Tensor = self.gates[str(stride)]
        return gate.view(1, -1, 1, 1) * resample(mixed, lateral)


class PyramidStep(nn.Module):
    """One step of a feature pyramid to stride 4 (FPN, Lin et al. 2017), as the baseline has it.

    Args:
        config: widths.
        channels: of the backbone's map at stride 4.
    """

    def __init__(self, config: ModelConfig, channels: int) -> None:
        """See the class."""
        super().__init__()
        inner = config.mask_conv
        self.fine = ConvGroup(channels, inner)
        self.coarse = ConvGroup(config.width, inner) if inner != config.width else None
        self.out = ConvGroup(inner, inner, 3)

    def forward(self, fine_BChw: Tensor, coarse_BCHW: Tensor) -> Tensor:
        """The backbone's map at stride 4 and the map at stride 8 -> [B, mask_conv, H/4, W/4]."""
        fine = self.fine(fine_BChw)
        coarse = coarse_BCHW if self.coarse is None else self.coarse(coarse_BCHW)
        return F.relu(self.out(fine + resize_like(coarse, fine)))


def _refinement(config: ModelConfig) -> nn.Module:
    """What refines a level after the bottleneck came back to it."""
    wide = config.width, config.refine_kernel, config.refine_expansion
    blocks: list[nn.Module] = [
        SeparableRefinement(config.width) if config.refine_expansion == 0 else WideRefinement(*wide)
        for _ in range(config.refine_layers)
    ]
    return blocks[0] if len(blocks) == 1 else nn.Sequential(*blocks)


def level_strides(config: ModelConfig) -> tuple[int, ...]:
    """Strides of the levels beside stride 4; 64 only where the configuration uses it."""
    needs_64 = 64 in (config.bottleneck_stride, *config.memory_strides, *config.token_strides)
    return (8, 16, 32, 64) if needs_64 else (8, 16, 32)


def resize_like(x_BCHW: Tensor, like: Tensor) -> Tensor:
    """Bilinear upsampling to the height and width of ``like``."""
    return upsample(x_BCHW, like.shape[2], like.shape[3])


def resample(x_BCHW: Tensor, like: Tensor) -> Tensor:
    """Average pooling to a coarser map, bilinear to a finer one."""
    (height, width), (low, narrow) = x_BCHW.shape[2:], like.shape[2:]
    if height > low or width > narrow:
        if height % low == 0 and width % narrow == 0:  # the same, and what converters know
            return F.avg_pool2d(x_BCHW, (height // low, width // narrow))
        return F.adaptive_avg_pool2d(x_BCHW, (low, narrow))
    return resize_like(x_BCHW, like)


class Gather(nn.Module):
    """Every level, squeezed, resampled to the bottleneck and summed with softmax weights.

    Args:
        config: widths and the bottleneck's stride.
        strides: strides of the laterals beside stride 4.
    """

    def __init__(self, config: ModelConfig, strides: tuple[int, ...]) -> None:
        """See the class."""
        super().__init__()
        self.stride = config.bottleneck_stride
        self.squeeze = nn.ModuleDict(
            {str(s): nn.Conv2d(config.width, config.width, 1) for s in strides}
        )
        self.squeeze["4"] = nn.Conv2d(config.mask_width, config.width, 1)
        self.weights = nn.Parameter(torch.zeros(len(strides) + 1))

    def forward(self, lateral4: Tensor, laterals: dict[int, Tensor]) -> Tensor:
        """Laterals at their own strides -> [B, C, H/b, W/b]."""
        total: Tensor
        like = laterals[self.stride]
        weights = self.weights.softmax(0) * len(self.weights)
        total = weights[0] * self.squeeze["4"](resample(lateral4, like))
        for i, (stride, lateral) in enumerate(sorted(laterals.items()), start=1):
            if stride > self.stride:
                part = resample(self.squeeze[str(stride)](lateral), like)
            else:
                part = self.squeeze[str(stride)](resample(lateral, like))
            total = total + weights[i] * part
        return total


class PlainMixing(nn.Module):
    """Self-attention over the bottleneck tokens: no grid_sample, nothing a converter rejects.

    Args:
        config: widths and heads.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads)
        self.feed_forward = FeedForward(config.width, config.mixing_ffn)

    def forward(
        self, tokens_BNC: Tensor, position_BNC: Tensor, _centers: Tensor, _levels: dict[int, Tensor]
    ) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        out: Tensor = self.feed_forward(self.attention(tokens_BNC, position_BNC))
        return out


class DeformableMixing(nn.Module):
    """Deformable attention whose queries are the bottleneck tokens and whose keys are all levels.

    Args:
        config: widths, heads and points.
        strides: strides of the levels that are read.
    """

    def __init__(self, config: ModelConfig, strides: tuple[int, ...]) -> None:
        """See the class."""
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.values = nn.ModuleDict(
            {str(s): nn.Conv2d(config.width, config.width, 1) for s in strides}
        )
        self.attention = DeformableAttention(
            config.width, config.heads, len(strides), config.deformable_points
        )
        self.feed_forward = FeedForward(config.width, config.mixing_ffn)

    def forward(
        self,
        tokens_BNC: Tensor,
        position_BNC: Tensor,
        centers_N2: Tensor,
        levels: dict[int, Tensor],
    ) -> Tensor:
        """[B, N, C] -> [B, N, C]; ``levels`` are the laterals by stride."""
        batch = tokens_BNC.shape[0]
        values = []
        for stride, level in sorted(levels.items()):
            value = self.values[str(stride)](level)
            split = (batch * self.heads, value.shape[1] // self.heads, *value.shape[2:])
            values.append(value.reshape(split))
        reference = torch.cat([centers_N2, torch.zeros_like(centers_N2)], -1)
        reference = reference[None].expand(batch, -1, -1)
        read = self.attention(self.norm(tokens_BNC) + position_BNC, reference, values)
        out: Tensor = self.feed_forward(tokens_BNC + read)
        return out
