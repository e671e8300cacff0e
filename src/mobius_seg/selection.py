"""Query selection: tokens compete by their text similarity to become queries.

With ``candidates`` in the configuration two steps stand for one: the tokens that look most like
objects are found first, without any name, and these alone are compared with the names. The cost no
longer grows with tokens times names, and it hardly changes who wins (docs/experiments.md).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mobius_seg.calibration import confidence
from mobius_seg.config import ModelConfig
from mobius_seg.heads import CosineClassifier
from mobius_seg.layers import (
    cell_size,
    flatten_map,
    grid_centers,
    head_mlp,
    move_boxes,
)
from mobius_seg.name_limits import LIKELIEST, MANY
from mobius_seg.naming import NameEvidence
from mobius_seg.types import DenseOutput, LayerOutput

_NAMES_AT_ONCE, _TOKENS_AT_ONCE = 1024, 64


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
        seen = self._seen(maps, names)
        picking = self._picking(normed.shape[1], text_BKC)
        index_BQ, logits, objects = picking(
            normed, seen, text_BKC, column_mask_BK, object_C, queries
        )
        picked = _rows(normed, index_BQ)
        if self.config.box_every_token:
            step = _rows(self.box(normed), index_BQ)
        else:
            step = self.box(picked)
        starts_BQ4 = _rows(anchors.expand(index_BQ.shape[0], -1, -1), index_BQ)
        boxes = move_boxes(starts_BQ4, step, self.config.box_steps)
        out = LayerOutput(
            logits,
            objects,
            boxes,
            picked[..., :0],
        )
        dense = None
        if self.training:
            dense_logits, dense_objects = self.dense_classifier(normed, seen, text_BKC, object_C)
            dense_boxes = move_boxes(anchors, self.dense_box(normed), self.config.box_steps)
            dense = DenseOutput(dense_logits, dense_objects, dense_boxes, centers, strides)
        return self.query(picked), out, dense

    def supported(
        self,
        maps: dict[int, Tensor],
        names: NameEvidence | None,
        text_BKC: Tensor,
        column_mask_BK: Tensor | None,
        object_C: Tensor,
        keep: int,
    ) -> tuple[Tensor, Tensor]:
        """The names that the tokens most like objects support.

        A name's lag is how many logits it scores below the best name of a token, at the token where
        it is closest. The names of least lag stay.

        Args:
            maps: stride -> [B, C, h, w].
            names: the picture's name vectors, None without a name map.
            text_BKC: [B or 1, K, C] columns.
            column_mask_BK: bool, True = a real column; None = all.
            object_C: [C].
            keep: how many names stay, at most K.

        Returns:
            Columns that stay, int64 [B, keep], ascending, and the least lag [B] of those that go
            (infinite where none goes).
        """
        normed = self.norm(self._tokens(maps)[0])
        seen = self._seen(maps, names)
        objects_BN = self.classifier.objects(normed, object_C)
        count = min(LIKELIEST, objects_BN.shape[1])
        index_BS = objects_BN.topk(count, dim=1).indices
        normed = _rows(normed, index_BS)
        if seen is not None:
            seen = _rows(seen, index_BS)
        vectors = self.classifier.vectors(normed, seen)
        near_BK = vectors.new_full((len(vectors), text_BKC.shape[1]), float("-inf"))
        for some in torch.split(vectors, _TOKENS_AT_ONCE, 1):  # cosines: the scale comes last
            cosine = _masked(torch.matmul(some, text_BKC.transpose(1, 2)), column_mask_BK)
            near_BK = torch.maximum(near_BK, cosine.sub_(cosine.amax(-1, keepdim=True)).amax(1))
        lag_BK = -self.classifier.scale() * near_BK
        order_BK = lag_BK.topk(min(keep + 1, lag_BK.shape[1]), dim=1, largest=False)
        least_B = order_BK.values[:, keep:].amin(1) if order_BK.values.shape[1] > keep else None
        if least_B is None:
            least_B = lag_BK.new_full((len(lag_BK),), float("inf"))
        return order_BK.indices[:, :keep].sort(1).values, least_B

    def _pick(
        self,
        normed: Tensor,
        seen: Tensor | None,
        text_BKC: Tensor,
        column_mask_BK: Tensor | None,
        object_C: Tensor,
        queries: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Index of the best tokens [B, Q], their name and object logits."""
        logits, objects = self.classifier(normed, seen, text_BKC, object_C)
        score_BN = confidence(
            logits.detach(), objects.detach(), column_mask_BK, self.config.objectness_weight
        )
        index_BQ = score_BN.topk(min(queries, score_BN.shape[1]), dim=1).indices
        return index_BQ, _rows(logits, index_BQ), objects.gather(1, index_BQ)

    def _pick_among_candidates(
        self,
        normed: Tensor,
        seen: Tensor | None,
        text_BKC: Tensor,
        column_mask_BK: Tensor | None,
        object_C: Tensor,
        queries: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same where the tokens most like objects alone are compared with the names."""
        objects_BN = self.classifier.objects(normed, object_C)
        count = min(self.config.candidates, objects_BN.shape[1])
        index_BM = objects_BN.detach().topk(count, dim=1).indices
        objects_BM = objects_BN.gather(1, index_BM)
        near = _rows(normed, index_BM)
        near_seen = None if seen is None else _rows(seen, index_BM)
        logits = self.classifier.compare(self.classifier.vectors(near, near_seen), text_BKC)
        score_BM = confidence(
            logits.detach(), objects_BM.detach(), column_mask_BK, self.config.objectness_weight
        )
        picked_BQ = score_BM.topk(min(queries, score_BM.shape[1]), dim=1).indices
        return (
            index_BM.gather(1, picked_BQ),
            _rows(logits, picked_BQ),
            objects_BM.gather(1, picked_BQ),
        )

    def _pick_among_many(
        self,
        normed: Tensor,
        seen: Tensor | None,
        text_BKC: Tensor,
        column_mask_BK: Tensor | None,
        object_C: Tensor,
        queries: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same without the logits of every token for every name in memory."""
        vectors = self.classifier.vectors(normed, seen)
        objects = self.classifier.objects(normed, object_C)
        best_BN1 = vectors.new_full((*objects.shape, 1), float("-inf"))
        for start in range(0, text_BKC.shape[1], _NAMES_AT_ONCE):
            part = slice(start, start + _NAMES_AT_ONCE)
            mask = None if column_mask_BK is None else column_mask_BK[:, part]
            logits = _masked(self.classifier.compare(vectors, text_BKC[:, part]), mask)
            best_BN1 = torch.maximum(best_BN1, logits.amax(-1, keepdim=True))
        any_B1 = None if column_mask_BK is None else column_mask_BK.any(-1, keepdim=True)
        score_BN = confidence(best_BN1, objects, any_B1, self.config.objectness_weight)
        index_BQ = score_BN.topk(min(queries, score_BN.shape[1]), dim=1).indices
        picked = _rows(vectors, index_BQ)
        return index_BQ, self.classifier.compare(picked, text_BKC), objects.gather(1, index_BQ)

    def _picking(self, tokens: int, text_BKC: Tensor) -> Callable[..., tuple[Tensor, ...]]:
        """How the best of so many tokens are found."""
        many = torch.compiler.is_exporting() or tokens > self.config.candidates
        if self.config.candidates and many:  # a graph of any size has no branch for small ones
            return self._pick_among_candidates
        return self._pick_among_many if self._has_many(text_BKC) else self._pick

    def _has_many(self, text_BKC: Tensor) -> bool:
        """Whether the logits of all tokens are too many to hold, and nobody needs them."""
        if self.training or torch.compiler.is_exporting():
            return False
        return text_BKC.shape[1] > MANY

    def _seen(self, maps: dict[int, Tensor], names: NameEvidence | None) -> Tensor | None:
        """What the name map shows at each token, [B, N, C]."""
        if names is None:
            return None
        return torch.cat([names.at(*maps[s].shape[2:]) for s in self.strides], 1)

    def _tokens(self, maps: dict[int, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens [B, N, C], centres [N, 2], anchors cxcywh [N, 4] and strides [N]."""
        tokens, centers, anchors, strides = [], [], [], []
        for i, stride in enumerate(self.strides):
            level = maps[stride]
            height, width = level.shape[2:]
            center = grid_centers(height, width, level)
            side = cell_size(height, width, center, 3.0).expand_as(center)
            tokens.append(flatten_map(level) + self.level[i])
            centers.append(center)
            anchors.append(torch.cat([center, side], -1))
            strides.append(center.new_full((height * width,), float(stride)))
        return torch.cat(tokens, 1), torch.cat(centers), torch.cat(anchors), torch.cat(strides)


def _rows(x_BNC: Tensor, index_BM: Tensor) -> Tensor:
    """The tokens [B, M, C] at an index."""
    return x_BNC.gather(1, index_BM[..., None].expand(-1, -1, x_BNC.shape[2]))


def _masked(logits_BNK: Tensor, column_mask_BK: Tensor | None) -> Tensor:
    """Columns that are not real score nothing."""
    if column_mask_BK is None:
        return logits_BNK
    return logits_BNK.masked_fill(~column_mask_BK[:, None, :], float("-inf"))
