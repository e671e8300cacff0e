"""Targets of a batch, padded to one number per image, so that losses are batched operations."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mobius_seg.data.sample import Target
from mobius_seg.types import TextPrompt


@dataclass(frozen=True)
class PaddedTargets:
    """Targets of a batch, padded to M per image.

    Attributes:
        boxes_BM4: cxcywh in 0..1; padding holds a small box in the middle.
        masks_BMHW: float 0..1.
        columns_BMK: bool, True where a column names the target.
        known_BK: bool, trusted negatives.
        valid_BM: bool, False for padding.
        has_mask_B: bool.
        has_object_B: bool.
        similarity_BMK: cosine of each column to the target's own column, 0 where it has none.
        rows_BM: int64, row of the target's name in the training vocabulary, -1 where there is none.
    """

    boxes_BM4: Tensor
    masks_BMHW: Tensor
    columns_BMK: Tensor
    known_BK: Tensor
    valid_BM: Tensor
    has_mask_B: Tensor
    has_object_B: Tensor
    similarity_BMK: Tensor
    rows_BM: Tensor


def pad_targets(
    targets: list[Target], prompt: TextPrompt, size: tuple[int, int], device: torch.device
) -> PaddedTargets:
    """Targets as padded tensors on one device.

    Args:
        targets: one per image.
        prompt: the columns that the targets speak of.
        size: height and width of the images.
        device: where the losses are computed.
    """
    batch, columns = len(targets), prompt.pooled_BKD.shape[1]
    count = max([len(t.boxes_M4) for t in targets] + [1])
    boxes = torch.tensor([0.5, 0.5, 0.1, 0.1]).repeat(batch, count, 1)
    masks = torch.zeros(batch, count, *size, dtype=torch.bool)
    named = torch.zeros(batch, count, columns, dtype=torch.bool)
    valid = torch.zeros(batch, count, dtype=torch.bool)
    rows = torch.full((batch, count), -1, dtype=torch.long)
    for b, target in enumerate(targets):
        n = len(target.boxes_M4)
        finite = torch.isfinite(target.boxes_M4).all(-1) & (target.boxes_M4[:, 2:] > 0).all(-1)
        boxes[b, :n][finite] = target.boxes_M4[finite]
        named[b, :n] = target.columns_MK
        valid[b, :n] = finite
        if target.rows_M is not None:
            rows[b, :n] = torch.where(finite, target.rows_M, -1)
        if target.masks_MHW is not None:
            masks[b, :n] = target.masks_MHW
    known = torch.stack([t.known_K for t in targets]).to(device)
    named = named.to(device)
    vectors = F.normalize(prompt.pooled_BKD.to(device).float(), dim=-1)
    own = F.normalize(torch.matmul(named.float(), vectors), dim=-1)
    return PaddedTargets(
        boxes.to(device),
        masks.to(device).float(),
        named,
        known,
        valid.to(device),
        torch.tensor([t.masks_MHW is not None for t in targets], device=device),
        torch.tensor([t.has_object for t in targets], device=device),
        torch.matmul(own, vectors.transpose(1, 2)),
        rows.to(device),
    )


def repeat_targets(targets: PaddedTargets, times: int) -> PaddedTargets:
    """Every target ``times`` times in a row (the masks are left as they are).

    Args:
        targets: padded targets, [B, M].
        times: how often.

    Returns:
        The same, [B, M * times].
    """
    return PaddedTargets(
        targets.boxes_BM4.repeat_interleave(times, 1),
        targets.masks_BMHW,
        targets.columns_BMK.repeat_interleave(times, 1),
        targets.known_BK,
        targets.valid_BM.repeat_interleave(times, 1),
        targets.has_mask_B,
        targets.has_object_B,
        targets.similarity_BMK.repeat_interleave(times, 1),
        targets.rows_BM.repeat_interleave(times, 1),
    )
