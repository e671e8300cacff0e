"""What is read off a query: its class, its box and its mask vector; shared by every layer."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from mobius_seg.calibration import best_column
from mobius_seg.config import ModelConfig
from mobius_seg.layers import MLP, head_mlp, length, move_boxes, unit
from mobius_seg.naming import NameEvidence
from mobius_seg.types import LayerOutput

_NAME_GAIN = 2.0
_OBJECT_SCALE = 10.0


class CosineClassifier(nn.Module):
    """logit = scale * cos(query, text) + bias; no softmax, so the names may change at any time.

    The scale is learned and clamped, the bias starts at the focal prior (Lin et al. 2017). One more
    learned vector stands for "object" and scores without any name. It is compared through its own
    embedding: a unit vector that points at "object" would have little length left for the names.

    Args:
        config: prior, scale and width.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        self.max_scale = config.max_scale
        self.embed = nn.Linear(config.width, config.width)
        self.object_embed = nn.Linear(config.width, config.width)
        self.name_gain = nn.Parameter(torch.tensor(_NAME_GAIN)) if config.name_map else None
        self.log_scale = nn.Parameter(torch.tensor(config.initial_scale).log())
        self.object_log_scale = nn.Parameter(torch.tensor(_OBJECT_SCALE).log())
        self.bias = nn.Parameter(torch.tensor(config.prior_logit))
        self.object_bias = nn.Parameter(torch.tensor(config.prior_logit))

    def forward(
        self, x_BNC: Tensor, names_BNC: Tensor | None, text_BKC: Tensor, object_C: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score tokens or queries.

        Args:
            x_BNC: [B, N, C] normalised (LayerNorm) tokens.
            names_BNC: [B, N, C] what the name map shows there, None without one.
            text_BKC: [B or 1, K, C] L2-normalised columns.
            object_C: [C] the learned object vector.

        Returns:
            Name logits [B, N, K] and object logits [B, N].
        """
        logits_BNK = self.compare(self.vectors(x_BNC, names_BNC), text_BKC)
        return logits_BNK, self.objects(x_BNC, object_C)

    def compare(self, vectors_BNC: Tensor, text_BKC: Tensor) -> Tensor:
        """Name logits [B, N, K] of what :meth:`vectors` gave against the columns."""
        cosine_BNK = _matmul(vectors_BNC, text_BKC.transpose(1, 2))
        return self.scale() * cosine_BNK + self.bias

    def objects(self, x_BNC: Tensor, object_C: Tensor) -> Tensor:
        """Object logits [B, N] of normalised tokens."""
        object_BNC = self.object_embed(x_BNC).float()
        # As a column: converters fuse products of matrices, and stumble over one with a vector.
        product_BN1 = _matmul(object_BNC, unit(object_C.float())[:, None])
        cosine_BN = (product_BN1 / length(object_BNC))[..., 0]
        return self._clamped(self.object_log_scale) * cosine_BN + self.object_bias

    def vectors(self, x_BNC: Tensor, names_BNC: Tensor | None) -> Tensor:
        """What is compared with the columns, L2-normalised [B, N, C].

        The direction of the token's embedding and, with a learned gain, that of the name map.
        """
        own = unit(self.embed(x_BNC))
        if self.name_gain is None or names_BNC is None:
            return own
        return unit(own + self.name_gain * unit(names_BNC))

    def scale(self) -> Tensor:
        """The factor of the cosine, clamped."""
        return self._clamped(self.log_scale)

    def _clamped(self, log_scale: Tensor) -> Tensor:
        limit = torch.tensor(self.max_scale, device=log_scale.device).log()
        return log_scale.minimum(limit).exp()


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    """A product kept out of autocast: bfloat16 has steps of 0.004 near 1, 0.1 of a logit."""
    kind = left.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return torch.matmul(left, right)
    with torch.autocast(kind, enabled=False):
        return torch.matmul(left.float(), right.float())


class UncertaintyHead(nn.Module):
    """Predicts the quality of a query under its best name; what it misses is the uncertainty.

    Reads the query, the text vector that it scores highest, and their similarity; where an image
    has no column, the object vector takes its place.

    Args:
        config: width and prior.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        self.mlp = MLP(2 * config.width + 1, config.width, 1)
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, config.prior_logit)

    def forward(
        self,
        normed_BQC: Tensor,
        scored: LayerOutput,
        text_BKC: Tensor,
        column_mask_BK: Tensor | None,
        object_C: Tensor,
    ) -> Tensor:
        """Predict each query's quality.

        Args:
            normed_BQC: [B, Q, C] normalised (LayerNorm) queries.
            scored: the stage's predictions; its logits are read, in tenths, as similarities
                (cosines up to the classifier's scale and bias), without gradient.
            text_BKC: [B or 1, K, C] columns.
            column_mask_BK: bool [B or 1, K], True = a real column; None = all.
            object_C: [C] the learned object vector.

        Returns:
            [B, Q] before the sigmoid.
        """
        text_BQC = unit(object_C).to(normed_BQC.dtype).expand_as(normed_BQC)
        logit_BQ = scored.object_logits_BQ.detach()
        if text_BKC.shape[1]:
            batch, width = normed_BQC.shape[0], normed_BQC.shape[2]
            logits_BQK = scored.logits_BQK.detach()
            best_BQ1 = best_column(logits_BQK, column_mask_BK)[..., None]
            texts_BKC = text_BKC.to(normed_BQC.dtype).expand(batch, -1, -1)
            best_BQC = texts_BKC.gather(1, best_BQ1.expand(-1, -1, width))
            named_B1 = logit_BQ.new_ones(1, 1, dtype=torch.bool)
            if column_mask_BK is not None:
                named_B1 = column_mask_BK.any(-1, keepdim=True)
            text_BQC = torch.where(named_B1[..., None], best_BQC, text_BQC)
            logit_BQ = torch.where(named_B1, logits_BQK.gather(2, best_BQ1)[..., 0], logit_BQ)
        similarity_BQ1 = logit_BQ[..., None].to(normed_BQC.dtype) / 10
        quality: Tensor = self.mlp(torch.cat([normed_BQC, text_BQC, similarity_BQ1], -1))
        return quality[..., 0]


class QueryHeads(nn.Module):
    """Class, box and mask heads, and the uncertainty head where the model has one.

    Args:
        config: widths.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.classifier = CosineClassifier(config)
        self.box = head_mlp(config.width, 4, config.head_layers)
        self.box_steps = config.box_steps
        self.mask = head_mlp(config.width, config.mask_width, config.head_layers)
        last = self.box[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.uncertainty = UncertaintyHead(config) if config.uncertainty_head else None

    def forward(
        self,
        query_BQC: Tensor,
        reference_BQ4: Tensor,
        names: NameEvidence | None,
        text_BKC: Tensor,
        object_C: Tensor,
        column_mask_BK: Tensor | None = None,
    ) -> LayerOutput:
        """Read one stage's predictions.

        Args:
            query_BQC: [B, Q, C].
            reference_BQ4: boxes of the stage before, cxcywh in 0..1; the head predicts a step in
                logit space (iterative refinement, Zhu et al. 2021).
            names: the picture's name vectors, None without a name map.
            text_BKC: [B or 1, K, C] columns.
            object_C: [C].
            column_mask_BK: bool [B or 1, K], True = a real column; None = all.
        """
        normed = self.norm(query_BQC)
        boxes = move_boxes(reference_BQ4, self.box(normed), self.box_steps)
        masks = self.mask(normed)
        seen = None if names is None else names.under(masks, boxes)
        logits, objects = self.classifier(normed, seen, text_BKC, object_C)
        out = LayerOutput(logits, objects, boxes, masks)
        return self.with_quality(out, normed, text_BKC, column_mask_BK, object_C)

    def with_quality(
        self,
        out: LayerOutput,
        normed_BQC: Tensor,
        text_BKC: Tensor,
        column_mask_BK: Tensor | None,
        object_C: Tensor,
    ) -> LayerOutput:
        """Predictions completed by :class:`UncertaintyHead`, where the model has one.

        Args:
            out: a stage's predictions.
            normed_BQC: its normalised queries, and so on as in that class.
            text_BKC: columns.
            column_mask_BK: real columns.
            object_C: the object vector.
        """
        if self.uncertainty is None:
            return out
        quality_BQ = self.uncertainty(normed_BQC, out, text_BKC, column_mask_BK, object_C)
        return replace(out, quality_logits_BQ=quality_BQ)


class MaskProduct(nn.Module):
    """Mask logits from mask vectors and mask features; holds no weights."""

    def forward(self, embed_BQM: Tensor, features_BMhw: Tensor) -> Tensor:
        """[B, Q, M] and [B, M, h, w] -> [B, Q, h, w]."""
        return torch.einsum("bqm,bmhw->bqhw", embed_BQM, features_BMhw)
