"""Which query answers for which target: a minimum-cost assignment per image and stage."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class MatchCosts:
    """Weights of the matching costs (the line's values: MaskDINO, Li et al. 2023)."""

    classification: float = 4.0
    mask: float = 5.0
    dice: float = 5.0
    box: float = 5.0
    giou: float = 2.0


def pairwise_mask_cost(logits_BQP: Tensor, labels_BMP: Tensor) -> Tensor:
    """Mean binary cross-entropy of every query with every target over the same points.

    Mask2Former (Cheng et al. 2022), as matrix products.

    Args:
        logits_BQP: mask logits at P points.
        labels_BMP: target masks at the same points, 0..1.

    Returns:
        [B, Q, M].
    """
    points = logits_BQP.shape[-1]
    positive = F.softplus(-logits_BQP) @ labels_BMP.transpose(-1, -2)
    negative = F.softplus(logits_BQP) @ (1 - labels_BMP).transpose(-1, -2)
    return (positive + negative) / points


def pairwise_dice_cost(logits_BQP: Tensor, labels_BMP: Tensor) -> Tensor:
    """Dice loss of every query with every target over the same points.

    Args:
        logits_BQP: mask logits at P points.
        labels_BMP: target masks at the same points, 0..1.

    Returns:
        [B, Q, M].
    """
    prob_BQP = logits_BQP.sigmoid()
    overlap = 2 * prob_BQP @ labels_BMP.transpose(-1, -2)
    total = prob_BQP.sum(-1)[..., :, None] + labels_BMP.sum(-1)[..., None, :]
    return 1 - (overlap + 1) / (total + 1)


def focal_cost(logits: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of calling a query positive minus that of calling it negative (Zhu et al. 2021).

    Args:
        logits: any shape, before the sigmoid.
        alpha: weight of the positive side.
        gamma: focusing power.

    Returns:
        The same shape.
    """
    prob = logits.sigmoid()
    positive = alpha * (1 - prob) ** gamma * F.softplus(-logits)
    negative = (1 - alpha) * prob**gamma * F.softplus(logits)
    return positive - negative


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[..., 4] centre and size -> corners."""
    center, half = boxes[..., :2], boxes[..., 2:].clamp(min=0) / 2
    return torch.cat([center - half, center + half], -1)


def box_iou_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al. 2019) of broadcastable boxes [..., 4]."""
    low = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    high = torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    area_a = (a_xyxy[..., 2:] - a_xyxy[..., :2]).clamp(min=0).prod(-1)
    area_b = (b_xyxy[..., 2:] - b_xyxy[..., :2]).clamp(min=0).prod(-1)
    union = area_a + area_b - overlap
    iou = overlap / union.clamp(min=1e-9)
    outer_low = torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    outer_high = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    outer = (outer_high - outer_low).clamp(min=0).prod(-1)
    return iou, iou - (outer - union) / outer.clamp(min=1e-9)


def assign(cost_BQM: Tensor, valid_BM: Tensor) -> Tensor:
    """Minimum-cost assignment, one query per target (Hungarian method, scipy).

    A cost that is not finite counts as a very large one, so a bad prediction cannot stop a run.

    Args:
        cost_BQM: [B, Q, M].
        valid_BM: bool [B, M], False for padding.

    Returns:
        int64 [B, M], the query of each target; -1 for padding and where queries ran out.
    """
    batch, _, count = cost_BQM.shape
    costs = torch.nan_to_num(cost_BQM.detach().float(), nan=1e6, posinf=1e6, neginf=1e6)
    costs_np = costs.cpu().numpy()
    valid = valid_BM.cpu().numpy()
    query = np.full((batch, count), -1, dtype=np.int64)
    for b in range(batch):
        columns = np.flatnonzero(valid[b])
        if len(columns):
            rows, picked = linear_sum_assignment(costs_np[b][:, columns])
            query[b, columns[picked]] = rows
    return torch.from_numpy(query).to(cost_BQM.device)
