"""What goes into the network and what comes out.

Shape legend of the whole project: B batch, Q queries, C width, K names (columns of a prompt),
T sub-word tokens, D text dimension, L decoder layers, N image tokens, M mask width or instances,
H and W pixels, h and w the same at stride 4. Boxes are cxcywh in 0..1 unless named otherwise.
"""

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from mobius_seg.naming import NameEvidence


@dataclass(frozen=True)
class TextPrompt:
    """What the network is asked for; what it holds decides what is done.

    Attributes:
        pooled_BKD: [B or 1, K, D] L2-normalised text vectors, one column per name or expression.
            A leading 1 is shared by the batch. K = 0 asks for every object.
        pooled_mask_BK: bool [B or 1, K], True = a real column; None = all are real.
        tokens_BTD: [B or 1, T, D] sub-word token vectors of an expression, None for names.
        tokens_mask_BT: bool [B or 1, T], True = a real token; None = all are real.
        vocabulary_VD: [V, D] L2-normalised vectors of every name that training knows, for the
            region loss; not seen by the fusion, and None outside of training.
    """

    pooled_BKD: Tensor
    pooled_mask_BK: Tensor | None = None
    tokens_BTD: Tensor | None = None
    tokens_mask_BT: Tensor | None = None
    vocabulary_VD: Tensor | None = None

    @classmethod
    def everything(cls, text_dim: int) -> Self:
        """A prompt without a column: every object is asked for."""
        return cls(torch.zeros(1, 0, text_dim))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "TextPrompt":
        """The same prompt on another device and, for the vectors, in another dtype."""
        return TextPrompt(
            self.pooled_BKD.to(device, dtype),
            None if self.pooled_mask_BK is None else self.pooled_mask_BK.to(device),
            None if self.tokens_BTD is None else self.tokens_BTD.to(device, dtype),
            None if self.tokens_mask_BT is None else self.tokens_mask_BT.to(device),
            None if self.vocabulary_VD is None else self.vocabulary_VD.to(device, dtype),
        )


@dataclass(frozen=True)
class Encoded:
    """What the decoder reads: an image and a prompt after the pixel decoder.

    Attributes:
        maps: stride -> [B, C, h, w] after scatter.
        mask_features_BMhw: [B, M, H/4, W/4].
        names: name vectors of the images, None for models without a name map.
        text_BKC: [B or 1, K, C] columns of the prompt, L2-normalised.
        column_mask_BK: bool [B or 1, K], True = a real column; None = all are real.
        columns_BK: int64, columns of the prompt that the K are, ascending; None = all of them
            (:mod:`mobius_seg.vocabulary`).
    """

    maps: dict[int, Tensor]
    mask_features_BMhw: Tensor
    names: NameEvidence | None
    text_BKC: Tensor
    column_mask_BK: Tensor | None
    columns_BK: Tensor | None = field(default=None)


@dataclass(frozen=True)
class LayerOutput:
    """Predictions of one stage: 0 is the query selection, 1..L are the decoder layers.

    Attributes:
        logits_BQK: score of each query against each column of the prompt, before the sigmoid.
        object_logits_BQ: score against the learned "object" vector, before the sigmoid.
        boxes_BQ4: cxcywh in 0..1.
        mask_embed_BQM: vectors whose product with the mask features gives the mask logits.
        kept_BQ: int64, index of each query in the stage before; None where every query went on.
        quality_logits_BQ: predicted quality before the sigmoid; None without uncertainty head.
    """

    logits_BQK: Tensor
    object_logits_BQ: Tensor
    boxes_BQ4: Tensor
    mask_embed_BQM: Tensor
    kept_BQ: Tensor | None = field(default=None)
    quality_logits_BQ: Tensor | None = field(default=None)

    def tensors(self) -> tuple[Tensor, ...]:
        """The fields that are there, in their order."""
        return tuple(value for value in vars(self).values() if value is not None)


@dataclass(frozen=True)
class DenseOutput:
    """Predictions of the auxiliary dense head on the tokens (training only).

    Attributes:
        logits_BNK: [B, N, K] before the sigmoid.
        object_logits_BN: [B, N] before the sigmoid.
        boxes_BN4: [B, N, 4] cxcywh in 0..1.
        centers_N2: [N, 2] token centres, x and y in 0..1.
        strides_N: [N] stride of each token in pixels.
    """

    logits_BNK: Tensor
    object_logits_BN: Tensor
    boxes_BN4: Tensor
    centers_N2: Tensor
    strides_N: Tensor


@dataclass(frozen=True)
class RegionOutput:
    """What the region loss compares (training only).

    Attributes:
        names_BChw: name vectors of the picture at the name map's stride, not normalised.
        vocabulary_VC: the prompt's vocabulary as columns, L2-normalised, without fusion.
        scale: the factor of the cosine.
    """

    names_BChw: Tensor
    vocabulary_VC: Tensor
    scale: Tensor


@dataclass(frozen=True)
class ModelOutput:
    """Everything the network says about a batch.

    Attributes:
        layers: one entry per stage that ran, the query selection first.
        mask_features_BMhw: [B, M, H/4, W/4].
        text_BKC: the columns of the prompt as the class head saw them, L2-normalised.
        dense: the auxiliary head's predictions in training, None otherwise.
        regions: name vectors of the picture and of the vocabulary, where the prompt has one.
        selection_masks_BQhw: mask logits of the selection where the configuration wants them.
        columns_BK: int64, columns of the prompt that the K of the logits are; None = all of them.
    """

    layers: list[LayerOutput]
    mask_features_BMhw: Tensor
    text_BKC: Tensor
    dense: DenseOutput | None = field(default=None)
    regions: RegionOutput | None = field(default=None)
    selection_masks_BQhw: Tensor | None = field(default=None)
    columns_BK: Tensor | None = field(default=None)

    def mask_logits(self, layer: int = -1) -> Tensor:
        """Mask logits [B, Q, H/4, W/4] of one stage (default the last)."""
        embed_BQM = self.layers[layer].mask_embed_BQM
        return torch.einsum("bqm,bmhw->bqhw", embed_BQM, self.mask_features_BMhw)
