"""How well expressions are answered: P@0.5 and cumulative IoU.

Both are the measures of the RefCOCO line: P@0.5 is the share of expressions whose answer overlaps
the meant instance with an IoU of at least 0.5; cIoU is the sum of all intersections over the sum of
all unions, in pixels, so large instances weigh more.
"""

from collections.abc import Mapping
from typing import Any

from pycocotools import mask as coco_mask

THRESHOLD = 0.5


class ReferringScorer:
    """Collects the answer to each expression."""

    def __init__(self) -> None:
        self.expressions = 0
        self._hits = 0
        self._intersection = 0
        self._union = 0

    def add(self, answer: Mapping[str, Any] | None, truth: Mapping[str, Any]) -> float:
        """Score one expression.

        Args:
            answer: mask of the best instance, None where nothing was found.
            truth: mask of the instance that the expression means, of the same size.

        Returns:
            The IoU of the two, in 0..1 (0 where both are empty).
        """
        masks = [truth] if answer is None else [truth, answer]
        union = int(coco_mask.area(coco_mask.merge(masks)))
        intersection = 0
        if answer is not None:
            intersection = int(coco_mask.area(coco_mask.merge(masks, intersect=True)))
        iou = intersection / union if union else 0.0
        self.expressions += 1
        self._hits += iou >= THRESHOLD
        self._intersection += intersection
        self._union += union
        return iou

    def metrics(self) -> dict[str, float | None]:
        """``p_at_50`` and ``ciou``, fractions of 1; None where nothing was asked."""
        return {
            "p_at_50": self._hits / self.expressions if self.expressions else None,
            "ciou": self._intersection / self._union if self._union else None,
        }
