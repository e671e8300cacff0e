"""Where masks are compared: sampled points, not every pixel (PointRend, Kirillov et al. 2020)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mobius_seg.loss_config import PointConfig

_ENLARGE = 1.4


def point_sample(maps_NCHW: Tensor, points_NP2: Tensor) -> Tensor:
    """Bilinear values of maps at points.

    Args:
        maps_NCHW: [N, C, H, W].
        points_NP2: [N, P, 2], x and y in 0..1.

    Returns:
        [N, C, P].
    """
    grid = 2 * points_NP2[:, :, None] - 1
    return F.grid_sample(maps_NCHW, grid, mode="bilinear", align_corners=False)[..., 0]


def enlarged_corners(boxes: Tensor, enlarge: float = _ENLARGE) -> tuple[Tensor, Tensor]:
    """Corners [..., 2] of boxes (cxcywh) scaled about their centre, clipped to 0..1."""
    half = boxes[..., 2:] * (enlarge / 2)
    return (boxes[..., :2] - half).clamp(0, 1), (boxes[..., :2] + half).clamp(0, 1)


def box_points(
    boxes: Tensor, count: int, generator: torch.Generator | None, enlarge: float = _ENLARGE
) -> Tensor:
    """Uniform points in enlarged boxes.

    Args:
        boxes: [..., 4] cxcywh in 0..1.
        count: points per box.
        generator: CPU source of the points.
        enlarge: scale of the box about its centre.

    Returns:
        [..., count, 2].
    """
    low, high = enlarged_corners(boxes, enlarge)
    unit = torch.rand(*boxes.shape[:-1], count, 2, generator=generator).to(boxes.device)
    return low[..., None, :] + unit * (high - low)[..., None, :]


def sample_mask_points(
    logits_N1HW: Tensor,
    boxes_N4: Tensor,
    config: PointConfig,
    generator: torch.Generator | None,
) -> tuple[Tensor, int]:
    """Points of the mask losses: in the box, where the mask is uncertain, and anywhere.

    Args:
        logits_N1HW: mask logits, no gradient.
        boxes_N4: target boxes, cxcywh in 0..1.
        config: numbers of points.
        generator: CPU source of the points.

    Returns:
        Points [N, P, 2], those in the box first, and how many those are.
    """
    device = logits_N1HW.device
    count = logits_N1HW.shape[0]
    parts = []
    if config.in_box:
        parts.append(box_points(boxes_N4, config.in_box, generator))
    uncertain = int(config.importance * config.count)
    if uncertain:
        candidates = int(config.count * config.oversample)
        tried = torch.rand(count, candidates, 2, generator=generator).to(device)
        uncertainty = -point_sample(logits_N1HW, tried)[:, 0].abs()
        index = uncertainty.topk(uncertain, dim=1).indices
        parts.append(tried.gather(1, index[..., None].expand(-1, -1, 2)))
    anywhere = torch.rand(count, config.count - uncertain, 2, generator=generator).to(device)
    return torch.cat([*parts, anywhere], 1), config.in_box


def spare_unsupported(
    points_NP2: Tensor,
    support_N: Tensor,
    config: PointConfig,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Chase the uncertain points of a mask only as far as its query is supported.

    Of the points that :func:`sample_mask_points` drew where mask n is uncertain, the
    round(c_n * share) most uncertain stay, each of weight c_n; points drawn anywhere, of weight 1,
    take the place of the others. With c = 1 nothing changes.

    Args:
        points_NP2: of :func:`sample_mask_points`.
        support_N: c in 0..1.
        config: numbers of points, the same.
        generator: CPU source of the points.

    Returns:
        Points [N, P, 2] and their weights [N, P].
    """
    count, device = points_NP2.shape[0], points_NP2.device
    uncertain = int(config.importance * config.count)
    chased_NP = torch.arange(uncertain, device=device) < (support_N[:, None] * uncertain).round()
    share = slice(config.in_box, config.in_box + uncertain)
    instead = torch.rand(count, uncertain, 2, generator=generator).to(device)
    points_NP2 = points_NP2.clone()
    points_NP2[:, share] = torch.where(chased_NP[..., None], points_NP2[:, share], instead)
    weight_NP = support_N.new_ones(points_NP2.shape[:2])
    weight_NP[:, share] = torch.where(chased_NP, support_N[:, None], weight_NP[:, share])
    return points_NP2, weight_NP
