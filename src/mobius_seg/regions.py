"""Naming every object among all names of the training, straight from the name map.

No matching is involved, so the loss teaches names from the first step on; see docs/model.md.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mobius_seg.calibration import name_contrast, synonym_weight
from mobius_seg.targets import PaddedTargets
from mobius_seg.types import RegionOutput, TextPrompt


def region_loss(
    regions: RegionOutput,
    targets: PaddedTargets,
    prompt: TextPrompt,
    *,
    synonyms: bool = True,
    pull: float = 0.0,
) -> Tensor:
    """Cross-entropy of the true name among the whole vocabulary, for every object.

    The name map's vectors are averaged over the visible mask; the true name competes with the
    vocabulary as in :func:`~mobius_seg.calibration.name_contrast`. Competition alone places a
    vector anywhere that beats the other names of the training, which says little about names
    outside of it; ``pull`` draws it to the true name's own vector as well.

    Args:
        regions: name vectors of the pictures and of the vocabulary.
        targets: padded targets with masks and rows.
        prompt: with ``vocabulary_VD``.
        synonyms: let names that mean the same compete less.
        pull: weight of the distance (1 - cosine) to the true name; no gradient reaches the text.

    Returns:
        Sum over objects; 0 where nothing is named.
    """
    assert prompt.vocabulary_VD is not None
    vocabulary_VC = regions.vocabulary_VC
    b, m = ((targets.rows_BM >= 0) & targets.has_mask_B[:, None]).nonzero(as_tuple=True)
    rows_T = targets.rows_BM[b, m]
    named_TV = F.one_hot(rows_T, len(vocabulary_VC)).bool()
    push_TV = torch.ones_like(named_TV, dtype=vocabulary_VC.dtype)
    if synonyms:
        vectors_VD = prompt.vocabulary_VD.float()
        push_TV = synonym_weight(vectors_VD[rows_T] @ vectors_VD.T)
    stride = targets.masks_BMHW.shape[-1] // regions.names_BChw.shape[-1]
    cover_TN = F.avg_pool2d(targets.masks_BMHW[b, m][:, None], stride).flatten(1)
    names_BNC = regions.names_BChw.float().flatten(2).transpose(1, 2)
    sum_TC = torch.einsum("tn,tnc->tc", cover_TN, names_BNC[b])
    named_TC = F.normalize(sum_TC, dim=-1)
    logits_TV = regions.scale.float() * named_TC @ vocabulary_VC.T
    distance_T = 1 - (named_TC * vocabulary_VC[rows_T].detach()).sum(-1)
    return name_contrast(logits_TV, named_TV, push_TV).sum() + pull * distance_T.sum()
