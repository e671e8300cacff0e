"""What matched masks cost: cross-entropy and dice on points, and the IoU behind the quality.

Shapes: N matched pairs, P points.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mobius_seg.loss_config import PointConfig
from mobius_seg.points import (
    enlarged_corners,
    point_sample,
    sample_mask_points,
    spare_unsupported,
)


def mask_terms(
    logits_BMhw: Tensor,
    masks_BMHW: Tensor,
    boxes_BM4: Tensor,
    config: PointConfig,
    generator: torch.Generator | None,
    support_BM: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, dice loss and IoU of matched masks.

    With ``support_BM`` (the region term of docs/model.md) the number of points that are drawn where
    the mask is uncertain, and the weight of each, shrink with the support of the pair: see
    :func:`mobius_seg.points.spare_unsupported`. Cross-entropy is then the weighted mean.

    Args:
        logits_BMhw: mask logits of the query of each target.
        masks_BMHW: target masks, 0..1.
        boxes_BM4: target boxes, cxcywh in 0..1.
        config: numbers of points.
        generator: CPU source of the points.
        support_BM: language confidence c of the pairs in 0..1, without gradient; None = 1.

    Returns:
        Three times [B, M]; the IoU has no gradient.
    """
    shape = logits_BMhw.shape[:2]
    flat = logits_BMhw.reshape(-1, 1, *logits_BMhw.shape[2:])
    wanted = masks_BMHW.reshape(-1, 1, *masks_BMHW.shape[2:])
    boxes = boxes_BM4.reshape(-1, 4)
    points, in_box = sample_mask_points(flat.detach(), boxes, config, generator)
    weight_NP = None
    if support_BM is not None:
        support_N = support_BM.detach().reshape(-1)
        points, weight_NP = spare_unsupported(points, support_N, config, generator)
    logits_NP = point_sample(flat, points)[:, 0]
    labels_NP = point_sample(wanted, points)[:, 0]
    bce_NP = F.binary_cross_entropy_with_logits(logits_NP, labels_NP, reduction="none")
    prob_NP = logits_NP.sigmoid()
    if weight_NP is None:
        bce = bce_NP.mean(-1)
        overlap = 2 * (prob_NP * labels_NP).sum(-1)
        total = prob_NP.sum(-1) + labels_NP.sum(-1)
    else:
        bce = (bce_NP * weight_NP).sum(-1) / weight_NP.sum(-1).clamp(min=1e-6)
        overlap = 2 * (weight_NP * prob_NP * labels_NP).sum(-1)
        total = (weight_NP * (prob_NP + labels_NP)).sum(-1)
    dice = 1 - (overlap + 1) / (total + 1)
    iou = mask_iou(flat.detach(), logits_NP.detach(), labels_NP, boxes, in_box)
    return bce.reshape(shape), dice.reshape(shape), iou.reshape(shape)


def mask_iou(
    logits_N1hw: Tensor, logits_NP: Tensor, labels_NP: Tensor, boxes_N4: Tensor, in_box: int
) -> Tensor:
    """IoU of the thresholded mask, [N]: from points in the enlarged box plus what lies outside it.

    Args:
        logits_N1hw: mask logits at stride 4.
        logits_NP: logits at the points, those drawn in the box first.
        labels_NP: labels at the points.
        boxes_N4: target boxes.
        in_box: number of points drawn uniformly in the enlarged box; 0 counts cells instead.
    """
    height, width = logits_N1hw.shape[2:]
    if in_box == 0:
        predicted, wanted = logits_NP > 0, labels_NP > 0.5
        both = (predicted & wanted).sum(-1)
        return both / (predicted | wanted).sum(-1).clamp(min=1)
    predicted, wanted = logits_NP[:, :in_box] > 0, labels_NP[:, :in_box] > 0.5
    both = (predicted & wanted).sum(-1).float()
    either = (predicted | wanted).sum(-1).float()
    low, high = enlarged_corners(boxes_N4)
    y = (torch.arange(height, device=low.device) + 0.5) / height
    x = (torch.arange(width, device=low.device) + 0.5) / width
    in_y = (y > low[:, 1:]) & (y < high[:, 1:])
    in_x = (x > low[:, :1]) & (x < high[:, :1])
    positive = logits_N1hw[:, 0] > 0
    outside = (positive & ~(in_y[:, :, None] & in_x[:, None, :])).sum((1, 2))
    area = (high - low).prod(-1).clamp(min=1e-6) * height * width
    return both / (either + outside * in_box / area).clamp(min=1.0)
