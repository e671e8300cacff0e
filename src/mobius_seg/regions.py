"""Naming every object among all names of the training, straight from its tokens.

No matching is involved, so the loss teaches names from the first step on; see docs/model.md.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mobius_seg.calibration import name_contrast, synonym_weight
from mobius_seg.targets import PaddedTargets
from mobius_seg.types import ModelOutput, TextPrompt


def region_loss(
    output: ModelOutput, targets: PaddedTargets, prompt: TextPrompt, synonyms: bool = True
) -> Tensor:
    """Cross-entropy of the true name among the whole vocabulary, for every object.

    The tokens' vectors (those that the dense head compares with the columns) are averaged over the
    visible mask, one level at a time; the true name competes with the vocabulary as in
    :func:`~mobius_seg.calibration.name_contrast`.

    Args:
        output: with ``dense`` and ``vocabulary_VC``.
        targets: padded targets with masks and rows.
        prompt: with ``vocabulary_VD``.
        synonyms: let names that mean the same compete less.

    Returns:
        Sum over objects, mean over levels; 0 where nothing is named.
    """
    dense, vocabulary_VC = output.dense, output.vocabulary_VC
    assert dense is not None
    assert vocabulary_VC is not None
    assert prompt.vocabulary_VD is not None
    b, m = ((targets.rows_BM >= 0) & targets.has_mask_B[:, None]).nonzero(as_tuple=True)
    rows_T = targets.rows_BM[b, m]
    named_TV = F.one_hot(rows_T, len(vocabulary_VC)).bool()
    push_TV = torch.ones_like(named_TV, dtype=vocabulary_VC.dtype)
    if synonyms:
        vectors_VD = prompt.vocabulary_VD.float()
        push_TV = synonym_weight(vectors_VD[rows_T] @ vectors_VD.T)
    masks_T1HW = targets.masks_BMHW[b, m][:, None]
    total = vocabulary_VC.new_zeros(())
    levels = torch.unique(dense.strides_N)  # ascending, as the tokens are
    for stride in levels:
        cover_TN = F.avg_pool2d(masks_T1HW, int(stride)).flatten(1)
        vectors_BNC = dense.vectors_BNC[:, dense.strides_N == stride].float()
        sum_TC = torch.einsum("tn,tnc->tc", cover_TN, vectors_BNC[b])
        logits_TV = dense.scale.float() * F.normalize(sum_TC, dim=-1) @ vocabulary_VC.T
        total = total + name_contrast(logits_TV, named_TV, push_TV).sum()
    return total / len(levels)
