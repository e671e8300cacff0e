"""How far confidences are from what they promise: LaECE_0, D-ECE, bins, rank correlation.

All take N detections as arrays [N]: their confidence in 0..1 and what came of them. Bins are
J = 25 intervals of equal width over 0..1 (closed below, the last also above).

* LaECE_0 (Kuzucu et al. 2024, arXiv 2405.20459, tau = 0):
  sum_j |D_j| / |D| * |mean confidence_j - precision_j * mean IoU_j|, where every detection that
  overlaps its match at all is a true positive, so that precision_j * mean IoU_j is the mean quality
  of the bin with 0 for what is unmatched. The quality here is u = sqrt(IoU_box * IoU_mask) (the box
  IoU alone where there are no masks), which the confidences are trained and mapped to foretell.
  Pooled over all names, and as the mean over names (the paper's form).
* Its noise: the LaECE_0 to expect of scores that are right in every bin, from these detections:
  sum_j |D_j| / |D| * sqrt(2 / pi) * s_j / sqrt(|D_j|) with s_j the standard deviation of the
  quality in the bin, since the mean of |D_j| independent draws is about normal; over the bins with
  two detections or more. A LaECE_0 near it cannot be told from perfect calibration. It is not the
  spread of a difference: for that, compare seeds.
* D-ECE (Kueppers et al. 2020): sum_j |D_j| / |D| * |mean confidence_j - precision_j| with
  precision at IoU 0.5.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

BINS = 25


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """The bins that hold anything.

    Attributes:
        confidence: mean confidence of each.
        outcome: mean of what came of it.
        count: detections in each.
    """

    confidence: Values
    outcome: Values
    count: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Mean distance of the two over the detections."""
        gap = np.abs(self.confidence - self.outcome)
        return float((self.count * gap).sum() / self.count.sum())


def reliability(confidence: Values, outcome: Values, bins: int = BINS) -> Reliability:
    """Put detections into bins of confidence.

    Args:
        confidence: [N] in 0..1.
        outcome: [N] in 0..1: quality, or whether it is a hit.
        bins: J.
    """
    row = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    count = np.bincount(row, minlength=bins)
    some = count > 0
    return Reliability(
        confidence=np.bincount(row, confidence, bins)[some] / count[some],
        outcome=np.bincount(row, outcome.astype(np.float64), bins)[some] / count[some],
        count=count[some],
    )


def laece(confidence: Values, quality: Values, bins: int = BINS) -> float | None:
    """LaECE_0 over all names together; None without a detection.

    Args:
        confidence: [N] in 0..1.
        quality: u of each detection, 0 where unmatched.
        bins: J.
    """
    return reliability(confidence, quality, bins).error if len(confidence) else None


def laece_noise(confidence: Values, quality: Values, bins: int = BINS) -> float | None:
    """LaECE_0 to expect of perfectly calibrated scores; None without two detections in a bin.

    Args:
        confidence: [N] in 0..1.
        quality: u of each detection, 0 where unmatched.
        bins: J.
    """
    row = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    parts = [quality[row == j] for j in range(bins)]
    known = [part for part in parts if len(part) > 1]
    if not known:
        return None
    noise = sum(len(p) * np.sqrt(2 / np.pi) * p.std(ddof=1) / np.sqrt(len(p)) for p in known)
    return float(noise / sum(len(part) for part in known))


def laece_by_name(
    confidence: Values, quality: Values, names: NDArray[np.int64], bins: int = BINS
) -> float | None:
    """Mean of LaECE_0 over the names that were detected; None without a detection.

    With few detections of a name its bins hold one or two, whose noise counts as error: compare
    figures of one data set only.

    Args:
        confidence: [N] in 0..1.
        quality: u of each detection.
        names: row of the name of each.
        bins: J.
    """
    errors = [
        reliability(confidence[names == name], quality[names == name], bins).error
        for name in np.unique(names)
    ]
    return float(np.mean(errors)) if errors else None


def d_ece(confidence: Values, hits: NDArray[np.bool_], bins: int = BINS) -> float | None:
    """D-ECE; None without a detection.

    Args:
        confidence: [N] in 0..1.
        hits: whether each detection matches an object with an IoU of at least 0.5.
        bins: J.
    """
    return reliability(confidence, hits.astype(np.float64), bins).error if len(hits) else None


def operating_rank(confidence: Values, hits: NDArray[np.bool_], objects: int) -> int:
    """How many of the most confident detections give the best F1 at IoU 0.5.

    Error over all queries misleads: hundreds of hopeless ones with a confidence near zero make any
    average small (arXiv 2412.01782). Errors are therefore also taken over these detections alone,
    which are the same ones whatever strictly increasing map is applied.

    Args:
        confidence: [N].
        hits: [N].
        objects: number of objects to find.
    """
    if not len(confidence):
        return 0
    order = np.argsort(-confidence, kind="stable")
    found = np.cumsum(hits[order])
    f1 = 2 * found / (np.arange(1, len(order) + 1) + max(objects, 1))
    return int(f1.argmax()) + 1


def rank_correlation(a: Values, b: Values) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank; None where one is constant.

    Args:
        a: [N].
        b: [N].
    """
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return None
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Values) -> Values:
    """Mean rank of each value."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[index], np.float64)
