"""The loss of the uncertainty head: a proper score of the quality under the best name."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mobius_seg.calibration import best_column
from mobius_seg.targets import PaddedTargets
from mobius_seg.types import LayerOutput


def uncertainty_loss(
    layer: LayerOutput,
    query_BM: Tensor,
    quality_BM: Tensor,
    targets: PaddedTargets,
    columns_BK: Tensor,
) -> Tensor:
    """Binary cross-entropy of the predicted quality, over all queries.

    A query's target is its quality u if its best column names its target, else 0; in an image
    without columns it is u. Cross-entropy with a soft target is a proper score, so what the head
    learns is the expected u of a query that looks and reads like this one; how far that is from u
    is the decoder's uncertainty. Images without masks have no u and teach nothing. Queries whose
    best column the image knows nothing about, and unmatched ones where neither names nor objects
    are exhaustive, have no target.

    Args:
        layer: a stage's predictions, with ``quality_logits_BQ``.
        query_BM: int64, query of each target, -1 where there is none.
        quality_BM: u of each target.
        targets: padded targets.
        columns_BK: bool, the real columns.

    Returns:
        The sum over queries.
    """
    assert layer.quality_logits_BQ is not None
    b, m = (query_BM >= 0).nonzero(as_tuple=True)
    q = query_BM[b, m]
    target_BQ = torch.zeros_like(layer.quality_logits_BQ)
    named_BQ = torch.zeros_like(target_BQ, dtype=torch.bool)
    named_BQ[b, q] = True
    trusted_BQ = targets.has_object_B[:, None] | named_BQ
    if layer.logits_BQK.shape[2]:
        best_BQ = best_column(layer.logits_BQK.detach(), columns_BK)
        asked_B1 = columns_BK.any(-1, keepdim=True)
        right = targets.columns_BMK[b, m, best_BQ[b, q]]
        named_BQ[b, q] = right | ~asked_B1[b, 0]
        known_BQ = targets.known_BK.gather(1, best_BQ)
        trusted_BQ = torch.where(asked_B1, known_BQ | named_BQ, trusted_BQ)
    target_BQ[b, q] = quality_BM[b, m].to(target_BQ.dtype) * named_BQ[b, q]
    loss_BQ = F.binary_cross_entropy_with_logits(
        layer.quality_logits_BQ, target_BQ, reduction="none"
    )
    return (loss_BQ * (trusted_BQ & targets.has_mask_B[:, None])).sum()
