"""Which quality the confidence of a stage learns when it is to foretell the last stage.

Queries keep their index from stage to stage unless some are dropped between layers; what was kept
stands in ``LayerOutput.kept_BQ``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mobius_seg.targets import PaddedTargets, repeat_targets
from mobius_seg.types import LayerOutput


def final_index(layers: Sequence[LayerOutput]) -> list[Tensor]:
    """Where each query of the last stage stood at every stage.

    Args:
        layers: stages in order, Q_l queries each.

    Returns:
        For each stage, int64 [B, Q_last]: index of the last stage's queries among its Q_l.
    """
    batch, count = layers[-1].object_logits_BQ.shape
    device = layers[-1].object_logits_BQ.device
    index_BQ = torch.arange(count, device=device).expand(batch, -1)
    found = [index_BQ]
    for layer in reversed(layers[1:]):
        if layer.kept_BQ is not None:
            index_BQ = layer.kept_BQ.gather(1, index_BQ)
        found.append(index_BQ)
    return found[::-1]


def final_answers(
    index_BQ: Tensor,
    own: tuple[Tensor, Tensor],
    final: tuple[Tensor, Tensor],
    targets: PaddedTargets,
) -> tuple[Tensor, Tensor, PaddedTargets]:
    """Which queries of a stage answer for which targets, and with which quality.

    A query that is still there at the last stage has the target and the quality of its match
    there, and none if it is matched there with nothing. A query that was dropped on the way has no
    final quality: it keeps the match and the quality of its own stage, so that being dropped is
    never itself taught.

    Args:
        index_BQ: of :func:`final_index` for this stage.
        own: this stage's matching, query of each target int64 [B, M] (-1 = none) and quality.
        final: the same at the last stage, its queries counted as there.
        targets: padded targets.

    Returns:
        Query of each target int64 [B, 2 M] (-1 = none), its quality, and the targets, each twice in
        a row; without dropped queries nothing is doubled: [B, M].
    """
    own_BM, own_quality_BM = own
    final_BM, quality_BM = final
    query_BM = torch.where(final_BM >= 0, index_BQ.gather(1, final_BM.clamp(min=0)), -1)
    left_BM = own_BM >= 0
    left_BM = left_BM & ~(own_BM[:, :, None] == index_BQ[:, None, :]).any(-1)
    if not bool(left_BM.any()):
        return query_BM, quality_BM, targets
    dropped_BM = torch.where(left_BM, own_BM, -1)
    both = torch.stack([query_BM, dropped_BM], -1).flatten(1)
    quality = torch.stack([quality_BM, own_quality_BM], -1).flatten(1)
    return both, quality, repeat_targets(targets, 2)
