"""What every text encoder gives, and what every text encoder is.

Shapes: K strings, T sub-words of the longest of them, D text width (384 for MiniLM).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextFeatures:
    """Encoded strings.

    Attributes:
        pooled_KD: float32, one vector a string, L2-normalised.
        tokens_KTD: float32, one L2-normalised vector a content sub-word, zero where there is none.
        tokens_mask_KT: bool, True at real sub-words. Every string has at least one.
    """

    pooled_KD: Tensor
    tokens_KTD: Tensor
    tokens_mask_KT: Tensor

    def sequence(self) -> Tensor:
        """The real sub-words of all strings, one string after the other: [T, D]."""
        return self.tokens_KTD[self.tokens_mask_KT]

    @staticmethod
    def stack(pooled: Sequence[Tensor], tokens: Sequence[Tensor], dim: int) -> "TextFeatures":
        """Build from K vectors [D] and K sub-word tables [T_k, D]; K may be 0."""
        longest = max((len(table) for table in tokens), default=0)
        tokens_KTD = torch.zeros(len(tokens), longest, dim)
        mask_KT = torch.zeros(len(tokens), longest, dtype=torch.bool)
        for row, table in enumerate(tokens):
            tokens_KTD[row, : len(table)] = table
            mask_KT[row, : len(table)] = True
        pooled_KD = torch.stack(list(pooled)) if pooled else torch.zeros(0, dim)
        return TextFeatures(pooled_KD, tokens_KTD, mask_KT)


class TextEncoder(Protocol):
    """Anything that turns strings into :class:`TextFeatures`.

    Attributes:
        dim: D, the width of every vector.
        identity: names the weights and the way of pooling. Vectors of two encoders may be mixed
            only when their identities are equal.
    """

    @property
    def dim(self) -> int:
        """Width D of every vector."""

    @property
    def identity(self) -> str:
        """Name of the weights and the pooling."""

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Encode K strings in the given order."""


def pad_sequences(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """B sequences [T_b, D] as one tensor [B, T, D] padded with zeros, and its mask [B, T]."""
    tokens_BTD = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return tokens_BTD, torch.arange(tokens_BTD.shape[1]) < lengths[:, None]
