"""The baseline's pixel decoder: every scale's tokens are mixed, and meet text, at full length.

The form of GLEE (Wu et al. 2024) and MaskDINO (Li et al. 2023): one early fusion, deformable layers
over all tokens of all scales (Deformable DETR, Zhu et al. 2021), and one pyramid step to stride 4.
It takes the same arguments and gives the same output as the bottleneck's pixel decoder, so that one
field of the configuration changes one for the other.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.config import ModelConfig
from mobius_seg.deformable import DeformableAttention
from mobius_seg.fusion import fuse_levels, text_fusion
from mobius_seg.layers import (
    ConvGroup,
    FeedForward,
    flatten_map,
    grid_centers,
    sine_position,
    token_maps,
)
from mobius_seg.pixel_decoder import (
    PixelDecoderOutput,
    PlainMixing,
    level_strides,
    resize_like,
)


class MultiscalePixelDecoder(nn.Module):
    """From backbone maps and text to decoder memory and mask features, without a bottleneck.

    Args:
        config: strides, widths, the form of mixing and the place of the fusion; with
            ``fusion="bottleneck"`` the text meets the tokens of ``bottleneck_stride`` only.
        channels: channels of the backbone's maps at strides 4, 8, 16, 32.
    """

    def __init__(self, config: ModelConfig, channels: tuple[int, ...]) -> None:
        """See the class."""
        super().__init__()
        width = config.width
        self.strides = level_strides(config)
        self.fused = self.strides if config.fusion == "levels" else (config.bottleneck_stride,)
        self.laterals = nn.ModuleDict(
            {str(s): ConvGroup(c, width) for s, c in zip((8, 16, 32), channels[1:], strict=True)}
        )
        if 64 in self.strides:
            self.laterals["64"] = ConvGroup(channels[3], width, 3, stride=2)
        self.fuse = text_fusion(config)
        self.level = nn.Parameter(torch.randn(len(self.strides), width) * width**-0.5)
        self.mix = nn.ModuleList(
            PlainMixing(config)
            if config.mixing == "plain"
            else MultiscaleMixing(config, len(self.strides))
            for _ in range(config.mixing_layers)
        )
        self.pyramid_in = ConvGroup(channels[0], width)
        self.pyramid_out = ConvGroup(width, width, 3)
        self.mask_features = nn.Conv2d(width, config.mask_width, 1)

    def forward(
        self, maps: list[Tensor], text_BTC: Tensor, text_mask_BT: Tensor | None
    ) -> PixelDecoderOutput:
        """Fuse and refine.

        Args:
            maps: backbone maps at strides 4, 8, 16, 32.
            text_BTC: [B or 1, T, C] projected text tokens, the learned object token first.
            text_mask_BT: bool [B or 1, T], True = real; None = all.
        """
        inputs = {**dict(zip((8, 16, 32), maps[1:], strict=True)), 64: maps[3]}
        levels = {s: self.laterals[str(s)](inputs[s]) for s in self.strides}
        met, text_BTC = fuse_levels(
            self.fuse, {s: levels[s] for s in self.fused}, text_BTC, text_mask_BT
        )
        levels |= met
        mixed = self._mix(levels)
        finer = self.pyramid_in(maps[0])
        finer = F.relu(self.pyramid_out(finer + resize_like(mixed[8], finer)))
        return PixelDecoderOutput(mixed, self.mask_features(finer), text_BTC[:, 1:])

    def _mix(self, levels: dict[int, Tensor]) -> dict[int, Tensor]:
        """The mixing layers over the tokens of all levels; maps by stride in and out."""
        tokens = torch.cat([flatten_map(level) for level in levels.values()], 1)
        shapes = [(level.shape[2], level.shape[3]) for level in levels.values()]
        counts = [height * width for height, width in shapes]
        centers = torch.cat([grid_centers(h, w, tokens) for h, w in shapes])
        names = torch.cat(
            [row.expand(count, -1) for row, count in zip(self.level, counts, strict=True)]
        )
        position = (sine_position(centers, tokens.shape[2]).to(tokens.dtype) + names)[None]
        for layer in self.mix:
            tokens = layer(tokens, position, centers, levels)
        parts = torch.split(tokens, counts, 1)
        return {
            stride: part.transpose(1, 2).reshape(level.shape)
            for (stride, level), part in zip(levels.items(), parts, strict=True)
        }


class MultiscaleMixing(nn.Module):
    """Deformable self-attention over the tokens of all levels, then feed-forward; pre-norm.

    Args:
        config: widths, heads and points.
        levels: number of levels.
    """

    def __init__(self, config: ModelConfig, levels: int) -> None:
        """See the class."""
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.value = nn.Linear(config.width, config.width)
        self.attention = DeformableAttention(
            config.width, config.heads, levels, config.deformable_points
        )
        self.feed_forward = FeedForward(config.width, config.mixing_ffn)

    def forward(
        self,
        tokens_BNC: Tensor,
        position_BNC: Tensor,
        centers_N2: Tensor,
        levels: dict[int, Tensor],
    ) -> Tensor:
        """[B, N, C] -> [B, N, C]; of ``levels`` (maps by stride) only the shapes are read."""
        shapes = [(level.shape[2], level.shape[3]) for level in levels.values()]
        normed = self.norm(tokens_BNC)
        values = token_maps(self.value(normed), shapes, self.heads)
        reference = torch.cat([centers_N2, torch.zeros_like(centers_N2)], -1)
        reference = reference[None].expand(tokens_BNC.shape[0], -1, -1)
        read = self.attention(normed + position_BNC, reference, values)
        out: Tensor = self.feed_forward(tokens_BNC + read)
        return out
