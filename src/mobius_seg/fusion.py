"""Image tokens and text read each other, at the bottleneck or over the tokens of every scale."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mobius_seg.config import ModelConfig
from mobius_seg.layers import attend, flatten_map, merge_heads, split_heads

_TEXT_CHUNK = 1024


class TextSide(NamedTuple):
    """What of a fusion does not depend on the image.

    Attributes:
        tokens: the text tokens as they came, [B or 1, T, C].
        query: what the text asks the image, [B or 1, T, inner].
        key: what the image asks for, likewise.
        value: and reads, likewise.
    """

    tokens: Tensor
    query: Tensor
    key: Tensor
    value: Tensor


class TextFusion(nn.Module):
    """Bidirectional cross-attention between image tokens and text (GLIP, Li et al. 2022).

    Each side reads the other through its own projections and a per-channel residual scale. The text
    side is processed in chunks, so memory stays bounded for ten thousand names.

    Args:
        config: widths and heads.

    Attributes:
        known: a text side to use for those same tokens, the very tensor; None computes it.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        self.known: TextSide | None = None
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
        return self.meet(image_BNC, known_side(self, text_BTC), text_mask_BT)

    def text_side(self, text_BTC: Tensor) -> TextSide:
        """The part that a fixed vocabulary computes once: text tokens [B or 1, T, C]."""
        text = self.text_norm(text_BTC)
        key, value = self.text_key_value(text).chunk(2, dim=-1)
        return TextSide(text_BTC, self.text_query(text), key, value)

    def meet(
        self, image_BNC: Tensor, side: TextSide, text_mask_BT: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Let the image read the text, and the text the image.

        Args:
            image_BNC: [B, N, C].
            side: of :meth:`text_side`.
            text_mask_BT: bool [B or 1, T]; False tokens are not read.

        Returns:
            Updated image tokens [B, N, C] and text tokens [B, T, C].
        """
        batch = image_BNC.shape[0]
        image = self.image_norm(image_BNC)
        bias = None if text_mask_BT is None else text_mask_BT[:, None, None, :]
        read = attend(
            split_heads(self.image_query(image), self.heads),
            split_heads(side.key.expand(batch, -1, -1), self.heads),
            split_heads(side.value.expand(batch, -1, -1), self.heads),
            bias,
        )
        image_BNC = image_BNC + self.image_scale * self.image_out(merge_heads(read))
        key, value = (split_heads(x, self.heads) for x in self.image_key_value(image).chunk(2, -1))
        chunks = []
        for query, tokens in zip(_chunks(side.query), _chunks(side.tokens), strict=True):
            heads = split_heads(query.expand(batch, -1, -1), self.heads)
            seen = merge_heads(attend(heads, key, value))
            chunks.append(tokens + self.text_scale * self.text_out(seen))
        return image_BNC, chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=1)


def _chunks(text_BTC: Tensor) -> tuple[Tensor, ...]:
    """Text tokens in parts of bounded length; a graph for any number of names has one part."""
    if torch.compiler.is_exporting():
        return (text_BTC,)
    return torch.split(text_BTC, _TEXT_CHUNK, 1)


class SharedTextFusion(nn.Module):
    """The same with one product of image and text for both directions, as GLIP has it.

    A third cheaper than :class:`TextFusion` at equal widths, but the whole product is in memory at
    once: image tokens times text tokens times heads.

    Args:
        config: widths and heads.

    Attributes:
        known: a text side to use for those same tokens, the very tensor; None computes it.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        self.known: TextSide | None = None
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
        return self.meet(image_BNC, known_side(self, text_BTC), text_mask_BT)

    def text_side(self, text_BTC: Tensor) -> TextSide:
        """The part that a fixed vocabulary computes once; one key serves as query too."""
        text = self.text_norm(text_BTC)
        key = self.text_key(text)
        return TextSide(text_BTC, key, key, self.text_value(text))

    def meet(
        self, image_BNC: Tensor, side: TextSide, text_mask_BT: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Arguments and results as of :meth:`TextFusion.meet`."""
        batch = image_BNC.shape[0]
        image = self.image_norm(image_BNC)
        query = split_heads(self.image_query(image), self.heads)
        key = split_heads(side.key.expand(batch, -1, -1), self.heads)
        text_value = split_heads(side.value.expand(batch, -1, -1), self.heads)
        image_value = split_heads(self.image_value(image), self.heads)
        scores_BhNT = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        seen = scores_BhNT.transpose(2, 3).softmax(-1) @ image_value
        if text_mask_BT is not None:
            scores_BhNT = scores_BhNT.masked_fill(~text_mask_BT[:, None, None, :], -torch.inf)
        read = scores_BhNT.softmax(-1) @ text_value
        image_BNC = image_BNC + self.image_scale * self.image_out(merge_heads(read))
        return image_BNC, side.tokens + self.text_scale * self.text_out(merge_heads(seen))


def known_side(fusion: TextFusion | SharedTextFusion, text_BTC: Tensor) -> TextSide:
    """The text side of tokens: the one that the fusion knows where it is theirs."""
    known = fusion.known
    if known is not None and known.tokens is text_BTC:
        return known
    return fusion.text_side(text_BTC)


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
