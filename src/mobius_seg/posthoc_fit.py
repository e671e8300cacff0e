"""How the maps of ``posthoc.py`` are fitted: temperature, isotonic regression, precision table.

Shapes: N queries of all pictures at one stage.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mobius_seg.calibration_file import PrecisionTable
from mobius_seg.errors import InputError
from mobius_seg.posthoc import StageMap

Values = NDArray[np.float64]

MIN_BLOCK = 10
"""Queries behind every knot and every line of the precision table: fewer say too little."""
TILT = 1e-3
"""Slope that is added to flat parts of the isotonic map, so that it strictly increases."""
TEMPERATURES = (0.5, 10.0)
"""Range searched; below 1/2 scores near 0 or 1 would become one number in double precision."""
TABLE_LINES = 256


def fit_stage_map(scores: Values, quality: Values) -> StageMap:
    """Fit one stage.

    The temperature minimises the cross-entropy of sigmoid(logit(score) / T) with the quality (Guo
    et al. 2017). On what it gives, pool-adjacent-violators (scipy) finds the non-decreasing map of
    least squared error; neighbouring blocks are joined until each holds :data:`MIN_BLOCK` queries.
    Each block is a knot at its mean score and mean quality, the ends are level, and the line
    y = x is mixed in with weight :data:`TILT`, which makes the map strictly increasing.

    Args:
        scores: confidences in 0..1, [N].
        quality: u in 0..1, [N].

    Returns:
        The map; the identity where there is nothing to fit to, N = 0.

    Raises:
        InputError: scipy is not installed.
    """
    if not len(scores):
        return StageMap()
    temperature = fit_temperature(scores, quality)
    at = torch.sigmoid(torch.logit(torch.from_numpy(scores)) / temperature).numpy()
    x, y = _isotonic(at, quality)
    return StageMap(temperature=temperature, knots=_tilted(x, y))


def fit_temperature(scores: Values, quality: Values) -> float:
    """The temperature that minimises the cross-entropy; 1 where every quality is zero.

    Args:
        scores: confidences in 0..1, [N].
        quality: u in 0..1, [N].

    Raises:
        InputError: scipy is not installed.
    """
    if not quality.any():
        return 1.0
    logits = np.clip(torch.logit(torch.from_numpy(scores)).numpy(), -50, 50)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - quality * scaled))

    low, high = np.log(TEMPERATURES)
    found = _optimize().minimize_scalar(loss, bounds=(low, high), method="bounded")
    return float(np.exp(found.x))


def fit_precision_table(scores: Values, hits: NDArray[np.bool_]) -> PrecisionTable:
    """Precision of all detections at and above each score.

    Args:
        scores: of the detections, [N], at least one.
        hits: whether each matches an object.

    Returns:
        Up to :data:`TABLE_LINES` thresholds, evenly spaced in the number of detections above them,
        which is at least :data:`MIN_BLOCK` (or all there are).
    """
    order = np.argsort(-scores, kind="stable")
    ranked, precision = scores[order], np.cumsum(hits[order]) / np.arange(1, len(scores) + 1)
    # Of equal scores, only the last counts all that reach the threshold.
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    enough = last[last + 1 >= min(MIN_BLOCK, len(scores))]
    lines = enough[np.unique(np.linspace(0, len(enough) - 1, TABLE_LINES).round().astype(int))]
    lines = lines[::-1]
    return PrecisionTable(
        thresholds=tuple(float(value) for value in ranked[lines]),
        precision=tuple(float(value) for value in precision[lines]),
    )


def _isotonic(x: Values, y: Values) -> tuple[Values, Values]:
    """Mean x and mean y of the blocks of the isotonic regression of y on x, both ascending."""
    values, index, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(index, weights=y) / counts
    found = _optimize().isotonic_regression(means, weights=counts)
    starts = [0]
    for start in found.blocks[1:-1]:
        if counts[starts[-1] : start].sum() >= MIN_BLOCK:
            starts.append(int(start))
    if len(starts) > 1 and counts[starts[-1] :].sum() < MIN_BLOCK:
        starts.pop()
    total = np.add.reduceat(counts, starts)
    return (
        np.add.reduceat(values * counts, starts) / total,
        np.add.reduceat(means * counts, starts) / total,
    )


def _tilted(x: Values, y: Values) -> tuple[tuple[float, float], ...]:
    """Knots from 0 to 1 that strictly increase."""
    inside = (x > 0) & (x < 1)
    xs = np.concatenate([[0.0], x[inside], [1.0]])
    ys = np.concatenate([[y[0]], y[inside], [y[-1]]])
    ys = (1 - TILT) * np.clip(np.maximum.accumulate(ys), 0, 1) + TILT * xs
    knots = [(0.0, float(ys[0]))]
    for at, value in zip(xs[1:-1].tolist(), ys[1:-1].tolist(), strict=True):
        if knots[-1][0] < at and knots[-1][1] < value < float(ys[-1]):
            knots.append((at, value))
    return (*knots, (1.0, float(ys[-1])))


def _optimize() -> Any:
    """scipy.optimize."""
    try:
        from scipy import optimize
    except ImportError as error:
        raise InputError(
            'fitting needs the package scipy: pip install "mobius-seg[eval]"'
        ) from error
    return optimize
