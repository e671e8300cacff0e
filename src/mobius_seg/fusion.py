"""Image tokens and text read each other, at the bottleneck or over the tokens of every scale."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.config import ModelConfig
from mobius_seg.layers import flatten_map, merge_heads, split_heads

_TEXT_CHUNK = 1024


class TextFusion(nn.Module):
    """Bidirectional cross-attention between image tokens and text (GLIP, Li et al. 2022).

    Each side reads the other through its own projections and a per-channel residual scale. The text
    side is processed in chunks, so memory stays bounded for ten thousand names.

    Args:
        config: widths and heads.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        width, inner = config.width, config.fusion_width
        self.heads = config.heads
        self.image_norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.image_query, self.text_query = nn.Linear(width, inner), nn.Linear(width, inner)
        self.image_key_value = nn.Linear(width, 2 * inner)
        self.text_key_value = nn.Linear(width, 2 * inner)
        self.image_out, self.text_out = nn.Linear(inner, width), nn.Linear(inner, width)
        self.image_scale = nn.Parameter(torch.full((width,), 1 / 6))
        self.text_scale = nn.Parameter(torch.full((width,), 1 / 6))

    def forward(
        self, image_BNC: Tensor, text_BTC: Tensor, text_mask_BT: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Let image and text read each other once.

        Args:
            image_BNC: [B, N, C].
            text_BTC: [B or 1, T, C], T >= 1.
            text_mask_BT: bool [B or 1, T]; False tokens are not read.

        Returns:
            Updated image tokens [B, N, C] and text tokens [B, T, C].
        """
        batch = image_BNC.shape[0]
        image, text = self.image_norm(image_BNC), self.text_norm(text_BTC)
        key, value = self.text_key_value(text).expand(batch, -1, -1).chunk(2, dim=-1)
        bias = None if text_mask_BT is None else text_mask_BT[:, None, None, :]
        read = F.scaled_dot_product_attention(
            split_heads(self.image_query(image), self.heads),
            split_heads(key, self.heads),
            split_heads(value, self.heads),
            attn_mask=bias,
        )
        image_BNC = image_BNC + self.image_scale * self.image_out(merge_heads(read))
        key, value = (split_heads(x, self.heads) for x in self.image_key_value(image).chunk(2, -1))
        chunks = []
        for start in range(0, text.shape[1], _TEXT_CHUNK):
            part = text[:, start : start + _TEXT_CHUNK].expand(batch, -1, -1)
            query = split_heads(self.text_query(part), self.heads)
            seen = merge_heads(F.scaled_dot_product_attention(query, key, value))
            residual = self.text_scale * self.text_out(seen)
            chunks.append(text_BTC[:, start : start + _TEXT_CHUNK] + residual)
        return image_BNC, torch.cat(chunks, dim=1)


class SharedTextFusion(nn.Module):
    """The same with one product of image and text for both directions, as GLIP has it.

    A third cheaper than :class:`TextFusion` at equal widths, but the whole product is in memory at
    once: image tokens times text tokens times heads.

    Args:
        config: widths and heads.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        width, inner = config.width, config.fusion_width
        self.heads = config.heads
        self.image_norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.image_query, self.text_key = nn.Linear(width, inner), nn.Linear(width, inner)
        self.image_value, self.text_value = nn.Linear(width, inner), nn.Linear(width, inner)
        self.image_out, self.text_out = nn.Linear(inner, width), nn.Linear(inner, width)
        self.image_scale = nn.Parameter(torch.full((width,), 1 / 6))
        self.text_scale = nn.Parameter(torch.full((width,), 1 / 6))

    def forward(
        self, image_BNC: Tensor, text_BTC: Tensor, text_mask_BT: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Arguments and results as of :class:`TextFusion`."""
        batch = image_BNC.shape[0]
        image, text = self.image_norm(image_BNC), self.text_norm(text_BTC)
        query = split_heads(self.image_query(image), self.heads)
        key = split_heads(self.text_key(text).expand(batch, -1, -1), self.heads)
        text_value = split_heads(self.text_value(text).expand(batch, -1, -1), self.heads)
        image_value = split_heads(self.image_value(image), self.heads)
        scores_BhNT = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        seen = scores_BhNT.transpose(2, 3).softmax(-1) @ image_value
        if text_mask_BT is not None:
            scores_BhNT = scores_BhNT.masked_fill(~text_mask_BT[:, None, None, :], -torch.inf)
        read = scores_BhNT.softmax(-1) @ text_value
        image_BNC = image_BNC + self.image_scale * self.image_out(merge_heads(read))
        return image_BNC, text_BTC + self.text_scale * self.text_out(merge_heads(seen))


def text_fusion(config: ModelConfig) -> TextFusion | SharedTextFusion:
    """The fusion that a configuration asks for."""
    return SharedTextFusion(config) if config.share_fusion_scores else TextFusion(config)


def fuse_levels(
    fuse: TextFusion | SharedTextFusion,
    levels: dict[int, Tensor],
    text_BTC: Tensor,
    text_mask_BT: Tensor | None,
) -> tuple[dict[int, Tensor], Tensor]:
    """Fuse text into the tokens of several levels at once.

    Args:
        fuse: a fusion.
        levels: stride -> [B, C, h, w].
        text_BTC: [B or 1, T, C].
        text_mask_BT: bool [B or 1, T], True = real; None = all.

    Returns:
        The levels and the text after it.
    """
    counts = [level.shape[2] * level.shape[3] for level in levels.values()]
    tokens = torch.cat([flatten_map(level) for level in levels.values()], 1)
    tokens, text_BTC = fuse(tokens, text_BTC, text_mask_BT)
    parts = torch.split(tokens, counts, 1)
    fused = {
        stride: part.transpose(1, 2).reshape(level.shape)
        for (stride, level), part in zip(levels.items(), parts, strict=True)
    }
    return fused, text_BTC
