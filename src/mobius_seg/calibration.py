"""One confidence per query, read off its logits: what selection, pruning and results all use."""

import torch
from torch import Tensor
from torch.nn import functional as F


def name_scores(
    logits_BQK: Tensor,
    object_logits_BQ: Tensor,
    column_mask_BK: Tensor | None,
    objectness_weight: float,
) -> Tensor:
    """Probability of each column for each query, mixed with the object column.

    score = sigmoid(name)^(1 - alpha) * sigmoid(object)^alpha, a geometric mean: the object column
    is trained on every object, so it ranks objects whose names are rare.

    Args:
        logits_BQK: [B, Q, K] before the sigmoid.
        object_logits_BQ: [B, Q] before the sigmoid.
        column_mask_BK: bool [B or 1, K], False columns score zero; None = all are real.
        objectness_weight: alpha in 0..1.

    Returns:
        [B, Q, K] in 0..1; with K = 0 (or an image whose columns are all masked, see
        :func:`confidence`) there is no name to score.
    """
    log_score = (1 - objectness_weight) * F.logsigmoid(logits_BQK)
    log_score = log_score + objectness_weight * F.logsigmoid(object_logits_BQ)[..., None]
    score = log_score.exp()
    if column_mask_BK is not None:
        score = score * column_mask_BK[:, None, :]
    return score


def confidence(
    logits_BQK: Tensor,
    object_logits_BQ: Tensor,
    column_mask_BK: Tensor | None,
    objectness_weight: float,
) -> Tensor:
    """Best score of each query over the prompt; without a column, its object probability.

    Args:
        logits_BQK: [B, Q, K] before the sigmoid; K may be 0.
        object_logits_BQ: [B, Q] before the sigmoid.
        column_mask_BK: bool [B or 1, K]; an image with no real column is class-agnostic.
        objectness_weight: alpha of :func:`name_scores`.

    Returns:
        [B, Q] in 0..1.
    """
    if logits_BQK.shape[2] == 0:
        return object_logits_BQ.sigmoid()
    if column_mask_BK is not None:
        logits_BQK = logits_BQK.masked_fill(~column_mask_BK[:, None, :], float("-inf"))
    best_BQ = F.logsigmoid(logits_BQK.amax(-1))
    object_BQ = F.logsigmoid(object_logits_BQ)
    named_BQ = ((1 - objectness_weight) * best_BQ + objectness_weight * object_BQ).exp()
    if column_mask_BK is None:
        return named_BQ
    return torch.where(column_mask_BK.any(-1, keepdim=True), named_BQ, object_BQ.exp())
