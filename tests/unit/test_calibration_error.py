"""The estimators on scores whose true error is known."""

import numpy as np
import pytest
from scipy import stats

from mobius_seg.evaluate.calibration_error import (
    BINS,
    d_ece,
    laece,
    laece_by_name,
    laece_noise,
    operating_rank,
    rank_correlation,
    reliability,
)

COUNT = 100_000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_perfect_confidence_has_no_error() -> None:
    confidence = rng().random(COUNT)
    hits = rng(1).random(COUNT) < confidence
    quality = np.clip(rng(2).normal(confidence, 0.1), 0, 1) * 1.0
    inside = (confidence > 0.3) & (confidence < 0.7)  # where clipping moves no mean
    assert d_ece(confidence, hits) == pytest.approx(0, abs=0.01)
    assert laece(confidence[inside], quality[inside]) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("delta", [-0.2, 0.05, 0.3])
def test_constant_bias_is_the_error(delta: float) -> None:
    truth = 0.3 + 0.4 * rng().random(COUNT)
    hits = rng(1).random(COUNT) < truth
    assert d_ece(truth + delta, hits) == pytest.approx(abs(delta), abs=0.01)
    assert laece(truth + delta, truth) == pytest.approx(abs(delta), abs=1e-9)


@pytest.mark.parametrize("count", [300, 3000])
def test_noise_is_the_error_of_perfect_scores(count: int) -> None:
    """Draws whose mean is the confidence: what is measured is noise alone."""
    errors, noises = [], []
    for seed in range(40):
        confidence = rng(seed).random(count)
        hits = (rng(seed + 100).random(count) < confidence) * 1.0
        errors.append(laece(confidence, hits))
        noises.append(laece_noise(confidence, hits))
    assert np.mean(noises) == pytest.approx(np.mean(errors), rel=0.1)  # type: ignore[arg-type]
    assert laece_noise(np.array([0.1, 0.9]), np.array([0.0, 1.0])) is None  # one a bin


def test_what_is_unmatched_counts_as_quality_zero() -> None:
    """Half is unmatched, the rest has quality 0.8: precision times IoU is 0.4."""
    confidence = np.full(1000, 0.9)
    quality = np.where(np.arange(1000) % 2, 0.8, 0.0)
    assert laece(confidence, quality) == pytest.approx(0.5)
    assert d_ece(confidence, quality > 0.5) == pytest.approx(0.4)


def test_errors_of_opposite_sign_in_two_bins_do_not_cancel() -> None:
    confidence = np.array([0.1] * 50 + [0.9] * 50)
    quality = np.full(100, 0.5)
    assert laece(confidence, quality) == pytest.approx(0.4)
    assert laece(confidence, quality, bins=1) == pytest.approx(0.0)


def test_one_name_hides_another_unless_taken_apart() -> None:
    confidence = np.full(200, 0.5)
    names = np.repeat([3, 7], 100)
    quality = np.where(names == 3, 0.2, 0.8)
    assert laece(confidence, quality) == pytest.approx(0.0)
    assert laece_by_name(confidence, quality, names) == pytest.approx(0.3)


def test_bins_are_of_equal_width_and_hold_the_ends() -> None:
    found = reliability(np.array([0.0, 0.039, 0.04, 1.0]), np.array([0.0, 1.0, 1.0, 1.0]))
    assert BINS == 25
    assert found.count.tolist() == [2, 1, 1]
    assert found.outcome.tolist() == [0.5, 1.0, 1.0]
    assert found.confidence.tolist() == [0.0195, 0.04, 1.0]


def test_nothing_has_no_error() -> None:
    nothing = np.zeros(0)
    assert laece(nothing, nothing) is None
    assert d_ece(nothing, nothing.astype(bool)) is None
    assert laece_by_name(nothing, nothing, nothing.astype(np.int64)) is None
    assert operating_rank(nothing, nothing.astype(bool), 5) == 0


def test_operating_rank_is_that_of_the_best_f1() -> None:
    hits = np.array([1, 1, 0, 1, 0, 0, 0, 0], bool)
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    order = rng().permutation(8)
    # F1 with 4 objects: 2/5, 4/6, 4/7, 6/8, 6/9, ...
    assert operating_rank(confidence[order], hits[order], 4) == 4


def test_rank_correlation_equals_scipys() -> None:
    a = rng().integers(0, 20, 500).astype(float)
    b = a + rng(1).integers(0, 20, 500)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1.0)
    assert rank_correlation(a, -a) == pytest.approx(-1.0)
    assert rank_correlation(a, np.zeros(500)) is None
    assert rank_correlation(a[:1], a[:1]) is None
