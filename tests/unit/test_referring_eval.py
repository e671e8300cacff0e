"""P@0.5 and cumulative IoU of hand-made answers."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mobius_seg.evaluate.referring import ReferringScorer


def columns(first: int, last: int) -> dict[str, Any]:
    """Columns first to last - 1 of a picture of 10 x 20."""
    mask = np.zeros((10, 20), np.uint8, order="F")
    mask[:, first:last] = 1
    packed: dict[str, Any] = coco_mask.encode(mask)
    return packed


def test_figures_of_four_answers() -> None:
    scorer = ReferringScorer()
    assert scorer.add(columns(0, 10), columns(0, 10)) == 1.0  # 100 of 100 pixels
    assert scorer.add(columns(0, 5), columns(0, 10)) == 0.5  # 50 of 100: just a hit
    assert scorer.add(columns(0, 10), columns(6, 16)) == pytest.approx(40 / 160)
    assert scorer.add(None, columns(0, 2)) == 0.0  # 0 of 20
    assert scorer.expressions == 4
    figures = scorer.metrics()
    assert figures["p_at_50"] == 0.5
    assert figures["ciou"] == pytest.approx((100 + 50 + 40) / (100 + 100 + 160 + 20))


def test_nothing_asked_is_undefined() -> None:
    assert ReferringScorer().metrics() == {"p_at_50": None, "ciou": None}


def test_empty_masks() -> None:
    scorer = ReferringScorer()
    assert scorer.add(columns(0, 0), columns(0, 0)) == 0.0
    assert scorer.metrics() == {"p_at_50": 0.0, "ciou": None}
