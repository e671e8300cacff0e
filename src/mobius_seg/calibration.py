"""One confidence per query, read off its logits: what selection, pruning and results all use."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mobius_seg.loss_config import ClassLoss
from mobius_seg.types import LayerOutput

QUALITY_SHARE = 0.5
"""Share of the predicted quality in the confidence of a model with an uncertainty head (ours)."""
_SYNONYM = 0.8


def log_sigmoid(logits: Tensor) -> Tensor:
    """Logarithm of a probability from its logit.

    In an exported graph it is written out: exporters make log(sigmoid(x)) of it, and the sigmoid of
    a runtime is exact to 1e-7 or so, which is all of a small probability.

    Args:
        logits: any shape.
    """
    if torch.compiler.is_exporting():
        return logits.clamp(max=0) - torch.log1p(torch.exp(-logits.abs()))
    return F.logsigmoid(logits)


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
    log_score = (1 - objectness_weight) * log_sigmoid(logits_BQK)
    log_score = log_score + objectness_weight * log_sigmoid(object_logits_BQ)[..., None]
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
    best_BQ = log_sigmoid(logits_BQK.amax(-1))
    object_BQ = log_sigmoid(object_logits_BQ)
    named_BQ = ((1 - objectness_weight) * best_BQ + objectness_weight * object_BQ).exp()
    if column_mask_BK is None:
        return named_BQ
    return torch.where(column_mask_BK.any(-1, keepdim=True), named_BQ, object_BQ.exp())


def with_quality(score: Tensor, quality_logits_BQ: Tensor | None) -> Tensor:
    """Confidence of a model with an uncertainty head: score^(1 - beta) * u_hat^beta, beta = 1/2.

    u_hat is the head's expected quality of the query under its best name, so a query whose name
    looks right but whose mask is in doubt loses confidence.

    Args:
        score: [B, Q] or [B, Q, K] in 0..1, of :func:`confidence` or :func:`name_scores`.
        quality_logits_BQ: of the head, before the sigmoid; None leaves the score as it is.

    Returns:
        The shape of ``score``, in 0..1.
    """
    if quality_logits_BQ is None:
        return score
    factor = (QUALITY_SHARE * log_sigmoid(quality_logits_BQ)).exp()
    shape = (*factor.shape, *[1] * (score.ndim - factor.ndim))
    return score ** (1 - QUALITY_SHARE) * factor.reshape(shape)


def stage_confidence(
    layer: LayerOutput, column_mask_BK: Tensor | None, objectness_weight: float
) -> Tensor:
    """The one number per query that pruning reads, before any map fitted afterwards.

    Args:
        layer: predictions of a stage.
        column_mask_BK: as in :func:`confidence`.
        objectness_weight: alpha of :func:`name_scores`.

    Returns:
        [B, Q] in 0..1, without gradient.
    """
    score_BQ = confidence(
        layer.logits_BQK.detach(),
        layer.object_logits_BQ.detach(),
        column_mask_BK,
        objectness_weight,
    )
    logits_BQ = layer.quality_logits_BQ
    return with_quality(score_BQ, None if logits_BQ is None else logits_BQ.detach())


def answer_confidence(layer: LayerOutput, query_BM: Tensor, columns_BMK: Tensor) -> Tensor:
    """Language confidence of the query of each target: how far its own name supports it.

    Args:
        layer: predictions of a stage.
        query_BM: int64, query of each target; -1 (none) gives any value.
        columns_BMK: bool, the columns that name the target; without one the object logit decides.

    Returns:
        [B, M] in 0..1, without gradient: sqrt(name * object) as in :func:`name_scores`.
    """
    query_BM = query_BM.clamp(min=0)
    objects_BM = F.logsigmoid(layer.object_logits_BQ.detach().gather(1, query_BM))
    if columns_BMK.shape[2] == 0:
        return objects_BM.exp()
    index = query_BM[..., None].expand(-1, -1, columns_BMK.shape[2])
    logits_BMK = layer.logits_BQK.detach().gather(1, index)
    best_BM = F.logsigmoid(logits_BMK.masked_fill(~columns_BMK, float("-inf")).amax(-1))
    named_BM = (0.5 * (best_BM + objects_BM)).exp()
    return torch.where(columns_BMK.any(-1), named_BM, objects_BM.exp())


def best_column(logits_BQK: Tensor, column_mask_BK: Tensor | None) -> Tensor:
    """Column that each query scores highest.

    Args:
        logits_BQK: [B, Q, K], K at least 1.
        column_mask_BK: bool [B or 1, K], False columns are not chosen unless all are False.

    Returns:
        int64 [B, Q].
    """
    if column_mask_BK is not None:
        logits_BQK = logits_BQK.masked_fill(~column_mask_BK[:, None, :], float("-inf"))
    return logits_BQK.argmax(-1)


def confidence_loss(
    logits: Tensor, quality: Tensor, positive: Tensor, kind: ClassLoss = "mal", gamma: float = 1.5
) -> Tensor:
    """Language-guided confidence loss, element by element.

    ``mal`` (matchability-aware loss of DEIM, Huang et al. 2025): target u^gamma with weight 1 for
    positives, p^gamma for negatives. ``varifocal`` (Zhang et al. 2021): target u with weight u,
    negatives 0.75 p^2. ``focal`` (Lin et al. 2017): target 1, alpha 0.25, gamma 2.

    Args:
        logits: before the sigmoid, any shape.
        quality: u in 0..1 where ``positive``, of the same shape.
        positive: bool, of the same shape.
        kind: form of the loss.
        gamma: power of the target and of the negatives' weight (``mal``).

    Returns:
        The loss of each element.
    """
    prob = logits.detach().sigmoid()
    if kind == "mal":
        target = torch.where(positive, quality.clamp(min=0) ** gamma, quality.new_zeros(()))
        weight = torch.where(positive, torch.ones_like(prob), prob**gamma)
    elif kind == "varifocal":
        target = torch.where(positive, quality, quality.new_zeros(()))
        weight = torch.where(positive, quality, 0.75 * prob**2)
    else:
        target = positive.to(logits.dtype)
        weight = torch.where(positive, 0.25 * (1 - prob) ** 2, 0.75 * prob**2)
    return weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def name_contrast(logits_TK: Tensor, named_TK: Tensor, push_TK: Tensor) -> Tensor:
    """Cross-entropy of the true name among the names of the step, for matched queries.

    The confidence loss treats every column alone; this term makes the names compete, which is what
    teaches a thousand of them apart (InfoNCE, van den Oord et al. 2018). A training signal only:
    the class head stays a sigmoid per column. Other names enter the sum with the weight that the
    confidence loss pushes them with, so synonyms compete little.

    Args:
        logits_TK: name logits of T matched queries, before the sigmoid.
        named_TK: bool, the true columns.
        push_TK: weight of the other columns in 0..1.

    Returns:
        [T], zero where no column is true.
    """
    weight_TK = torch.where(named_TK, torch.ones_like(push_TK), push_TK)
    shown_TK = logits_TK + weight_TK.clamp(min=1e-6).log()
    shown_TK = shown_TK.masked_fill(weight_TK <= 0, float("-inf"))
    true_TK = shown_TK.masked_fill(~named_TK, float("-inf"))
    some_T = named_TK.any(-1)
    loss_T = shown_TK[some_T].logsumexp(-1) - true_TK[some_T].logsumexp(-1)
    return logits_TK.new_zeros(len(logits_TK)).masked_scatter(some_T, loss_T)


def synonym_weight(similarity: Tensor) -> Tensor:
    """How strongly another name is pushed down: 1 up to cosine 0.8 to the true name, 0 at 1.

    Args:
        similarity: cosine of text vectors. Unrelated names sit at 0.2 with MiniLM, the nearest of a
            thousand at 0.67 on average; what lies above 0.8 mostly names the same thing.
    """
    return 1 - ((similarity - _SYNONYM) / (1 - _SYNONYM)).clamp(0, 1)
