"""Fitting maps: what is known comes back, and nothing breaks a fit."""

import numpy as np
import pytest
import torch

from mobius_seg.evaluate.calibration_error import laece
from mobius_seg.posthoc import ScoreMaps, StageMap
from mobius_seg.posthoc_fit import fit_precision_table, fit_stage_map, fit_temperature


def draw(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, most of them low, whose expected quality is their square."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.3, 1.0, count)
    return scores, np.clip(rng.normal(scores**2, 0.05), 0, 1)


def mapped(scores: np.ndarray, quality: np.ndarray, at: np.ndarray) -> np.ndarray:
    maps = ScoreMaps(stages=(fit_stage_map(scores, quality),))
    return maps.apply(0, torch.from_numpy(at)).numpy()


def test_a_known_bend_comes_back() -> None:
    scores, quality = draw(20_000)
    at = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(mapped(scores, quality, at), at**2, atol=0.03)


def test_error_falls_on_data_that_was_not_fitted() -> None:
    fresh, quality = draw(20_000, seed=1)
    raw = laece(fresh, quality)
    after = laece(mapped(*draw(20_000), fresh), quality)
    assert raw is not None
    assert after is not None
    assert raw > 0.05
    assert after < 0.01


def test_small_blocks_are_joined() -> None:
    """One lucky query at the top must not promise a perfect mask."""
    scores = np.linspace(0.01, 0.99, 200)
    quality = np.where(np.arange(200) < 199, 0.3, 1.0)
    assert mapped(scores, quality, np.array([1.0]))[0] < 0.45


@pytest.mark.parametrize(
    ("scores", "quality"),
    [
        ([0.5], [0.5]),
        ([0.5], [0.0]),
        ([0.0, 1.0], [0.0, 1.0]),
        ([0.0, 1.0], [1.0, 0.0]),
        ([0.3] * 40, [0.2] * 40),
        ([1e-30, 1e-12, 0.999999], [0, 0, 0]),
        ([0.2, 0.4, 0.6], [1.0, 1.0, 1.0]),
        (list(np.linspace(0, 1, 300)), [0.0] * 300),
        (list(np.linspace(0, 1, 300)), list(np.linspace(1, 0, 300))),
    ],
)
def test_any_data_gives_a_strictly_increasing_map(
    scores: list[float], quality: list[float]
) -> None:
    found = mapped(np.array(scores), np.array(quality, float), np.linspace(0, 1, 1001))
    assert (np.diff(found) > 0).all()
    assert found.min() >= 0
    assert found.max() <= 1


def test_temperature_of_over_confidence() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 50_000)
    truth = (rng.random(50_000) < 1 / (1 + np.exp(-logits / 3))).astype(float)
    assert fit_temperature(1 / (1 + np.exp(-logits)), truth) == pytest.approx(3.0, rel=0.05)


def test_table_is_the_precision_at_and_above() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(2000).round(2)  # many are equal
    hits = rng.random(2000) < scores
    table = fit_precision_table(scores, hits)
    for threshold, precision in zip(table.thresholds, table.precision, strict=True):
        assert precision == pytest.approx(hits[scores >= threshold].mean())
        assert (scores >= threshold).sum() >= 10
    lowest = table.threshold_for(0.8)
    reaching = [t for t in np.unique(scores) if hits[scores >= t].mean() >= 0.8]
    assert lowest == min(reaching)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 5000])
def test_table_of_any_number_of_detections(count: int) -> None:
    scores = np.random.default_rng(0).random(count)
    table = fit_precision_table(scores, scores > 0.5)
    assert table.thresholds[0] == scores.min()
    assert len(table.thresholds) <= 256
    np.testing.assert_allclose(table.precision[0], (scores > 0.5).mean())


def test_a_stage_where_nothing_counts_is_left_as_it_is() -> None:
    assert fit_stage_map(np.zeros(0), np.zeros(0)) == StageMap()
