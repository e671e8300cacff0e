"""Query selection: tokens compete by their text similarity to become queries."""

import torch
from torch import Tensor, nn

from mobius_seg.calibration import confidence
from mobius_seg.config import ModelConfig
from mobius_seg.heads import CosineClassifier
from mobius_seg.layers import (
    flatten_map,
    grid_centers,
    head_mlp,
    move_boxes,
)
from mobius_seg.naming import NameEvidence
from mobius_seg.types import DenseOutput, LayerOutput


class QuerySelection(nn.Module):
    """Tokens compete by their text similarity; the best become queries with a box.

    Args:
        config: strides of the tokens, number of queries.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        width = config.width
        self.config = config
        self.strides = tuple(sorted(config.token_strides))
        self.norm = nn.LayerNorm(width)
        self.level = nn.Parameter(torch.zeros(len(self.strides), width))
        self.classifier = CosineClassifier(config)
        self.box = head_mlp(width, 4, config.head_layers)
        self.query = nn.Linear(width, width)
        self.dense_classifier = CosineClassifier(config)
        self.dense_box = head_mlp(width, 4, config.head_layers)

    def forward(
        self,
        maps: dict[int, Tensor],
        names: NameEvidence | None,
        text_BKC: Tensor,
        column_mask_BK: Tensor | None,
        object_C: Tensor,
        queries: int,
    ) -> tuple[Tensor, LayerOutput, DenseOutput | None]:
        """Score every token and keep the best.

        Args:
            maps: stride -> [B, C, h, w].
            names: the picture's name vectors, None without a name map.
            text_BKC: [B or 1, K, C] columns.
            column_mask_BK: bool, True = a real column; None = all.
            object_C: [C].
            queries: how many to keep at most.

        Returns:
            Queries [B, Q, C] with Q = min(queries, tokens), the selection's predictions (its mask
            vectors are filled in by the decoder), and the dense predictions in training.
        """
        tokens, centers, anchors, strides = self._tokens(maps)
        normed = self.norm(tokens)
        seen = None
        if names is not None:
            seen = torch.cat([names.at(*maps[s].shape[2:]) for s in self.strides], 1)
        logits, objects = self.classifier(normed, seen, text_BKC, object_C)
        score_BN = confidence(
            logits.detach(), objects.detach(), column_mask_BK, self.config.objectness_weight
        )
        count = min(queries, score_BN.shape[1])
        index_BQ = score_BN.topk(count, dim=1).indices
        picked = normed.gather(1, index_BQ[..., None].expand(-1, -1, normed.shape[2]))
        if self.config.box_every_token:
            step = self.box(normed).gather(1, index_BQ[..., None].expand(-1, -1, 4))
        else:
            step = self.box(picked)
        starts = anchors.expand(index_BQ.shape[0], -1, -1)
        starts = starts.gather(1, index_BQ[..., None].expand(-1, -1, 4))
        boxes = move_boxes(starts, step, self.config.box_steps)
        out = LayerOutput(
            logits.gather(1, index_BQ[..., None].expand(-1, -1, logits.shape[2])),
            objects.gather(1, index_BQ),
            boxes,
            picked[..., :0],
        )
        dense = None
        if self.training:
            dense_logits, dense_objects = self.dense_classifier(normed, seen, text_BKC, object_C)
            dense_boxes = move_boxes(anchors, self.dense_box(normed), self.config.box_steps)
            dense = DenseOutput(dense_logits, dense_objects, dense_boxes, centers, strides)
        return self.query(picked), out, dense

    def _tokens(self, maps: dict[int, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens [B, N, C], centres [N, 2], anchors cxcywh [N, 4] and strides [N]."""
        tokens, centers, anchors, strides = [], [], [], []
        for i, stride in enumerate(self.strides):
            level = maps[stride]
            height, width = level.shape[2:]
            center = grid_centers(height, width, level)
            side = center.new_tensor([3.0 / width, 3.0 / height]).expand_as(center)
            tokens.append(flatten_map(level) + self.level[i])
            centers.append(center)
            anchors.append(torch.cat([center, side], -1))
            strides.append(center.new_full((height * width,), float(stride)))
        return torch.cat(tokens, 1), torch.cat(centers), torch.cat(anchors), torch.cat(strides)
