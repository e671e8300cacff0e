"""What is read off a query: its class, its box and its mask vector; shared by every layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.config import ModelConfig
from mobius_seg.layers import head_mlp, inverse_sigmoid
from mobius_seg.types import LayerOutput


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
        self.log_scale = nn.Parameter(torch.tensor(config.initial_scale).log())
        self.object_log_scale = nn.Parameter(torch.tensor(config.initial_scale).log())
        self.bias = nn.Parameter(torch.tensor(config.prior_logit))
        self.object_bias = nn.Parameter(torch.tensor(config.prior_logit))

    def forward(self, x_BNC: Tensor, text_BKC: Tensor, object_C: Tensor) -> tuple[Tensor, Tensor]:
        """Score tokens or queries.

        Args:
            x_BNC: [B, N, C] normalised (LayerNorm) tokens.
            text_BKC: [B or 1, K, C] L2-normalised columns.
            object_C: [C] the learned object vector.

        Returns:
            Name logits [B, N, K] and object logits [B, N].
        """
        cosine_BNK = torch.matmul(self.vectors(x_BNC), text_BKC.transpose(1, 2))
        object_BNC = F.normalize(self.object_embed(x_BNC), dim=-1)
        object_BN = torch.matmul(object_BNC, F.normalize(object_C, dim=-1))
        object_scale = self._clamped(self.object_log_scale)
        return self.scale() * cosine_BNK + self.bias, object_scale * object_BN + self.object_bias

    def vectors(self, x_BNC: Tensor) -> Tensor:
        """What is compared with the columns: [B, N, C] -> L2-normalised [B, N, C]."""
        return F.normalize(self.embed(x_BNC), dim=-1)

    def scale(self) -> Tensor:
        """The factor of the cosine, clamped."""
        return self._clamped(self.log_scale)

    def _clamped(self, log_scale: Tensor) -> Tensor:
        limit = torch.tensor(self.max_scale, device=log_scale.device).log()
        return log_scale.minimum(limit).exp()


class QueryHeads(nn.Module):
    """Class, box and mask heads.

    Args:
        config: widths.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.classifier = CosineClassifier(config)
        self.box = head_mlp(config.width, 4, config.head_layers)
        self.mask = head_mlp(config.width, config.mask_width, config.head_layers)
        last = self.box[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(
        self,
        query_BQC: Tensor,
        reference_BQ4: Tensor,
        text_BKC: Tensor,
        object_C: Tensor,
    ) -> LayerOutput:
        """Read one stage's predictions.

        Args:
            query_BQC: [B, Q, C].
            reference_BQ4: boxes of the stage before, cxcywh in 0..1; the head predicts a step in
                logit space (iterative refinement, Zhu et al. 2021).
            text_BKC: [B or 1, K, C] columns.
            object_C: [C].
        """
        normed = self.norm(query_BQC)
        logits, objects = self.classifier(normed, text_BKC, object_C)
        boxes = (self.box(normed) + inverse_sigmoid(reference_BQ4)).sigmoid()
        return LayerOutput(logits, objects, boxes, self.mask(normed))


class MaskProduct(nn.Module):
    """Mask logits from mask vectors and mask features; holds no weights."""

    def forward(self, embed_BQM: Tensor, features_BMhw: Tensor) -> Tensor:
        """[B, Q, M] and [B, M, h, w] -> [B, Q, h, w]."""
        return torch.einsum("bqm,bmhw->bqhw", embed_BQM, features_BMhw)
