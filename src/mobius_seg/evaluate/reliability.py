"""Reliability diagrams: what queries promise against what comes of them, stage by stage."""

from pathlib import Path
from typing import Any

import numpy as np

from mobius_seg.errors import InputError
from mobius_seg.evaluate.calibrate import mapped_confidence
from mobius_seg.evaluate.calibration_error import reliability
from mobius_seg.evaluate.stage_scores import StageScores
from mobius_seg.files import atomic_path
from mobius_seg.posthoc import ScoreMaps

_COLUMNS = 5


def draw_reliability(
    scores: StageScores, maps: ScoreMaps | None, path: str | Path, title: str
) -> None:
    """Draw mean quality against mean confidence in bins, raw and mapped, one panel a stage.

    A marker's area grows with the logarithm of the number of queries in its bin.

    Args:
        scores: what every query of every stage said.
        maps: None draws the raw confidences alone.
        path: picture file, whose suffix says its kind.
        title: above the panels.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise InputError(
            'reliability diagrams need the package matplotlib: pip install "mobius-seg[eval]"'
        ) from error
    count = len(scores.confidence)
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(3.2 * columns, 3.4 * rows), layout="constrained", squeeze=False
    )
    for stage, axis in enumerate(axes.flat):
        if stage >= count:
            axis.set_axis_off()
            continue
        _panel(axis, scores, maps, stage)
    axes[0, 0].set_ylabel("mean quality")
    axes[0, 0].legend(loc="upper left", fontsize=8)
    figure.suptitle(f"{title}: {scores.images} pictures, {scores.objects} objects", fontsize=11)
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=110, bbox_inches="tight")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written: {error}") from None
    finally:
        pyplot.close(figure)


def _panel(axis: Any, scores: StageScores, maps: ScoreMaps | None, stage: int) -> None:
    """One stage: mean quality against mean confidence in bins."""
    some = scores.counts[stage]
    confidence, quality = scores.confidence[stage][some], scores.quality[stage][some]
    series = [("raw", confidence, "tab:gray")]
    if maps is not None:
        series.append(("mapped", mapped_confidence(maps, stage, confidence), "tab:blue"))
    axis.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    for label, values, colour in series:
        if len(values):
            bins = reliability(values, quality)
            area = 6 + 14 * np.log10(bins.count)
            axis.plot(bins.confidence, bins.outcome, color=colour, linewidth=1)
            axis.scatter(bins.confidence, bins.outcome, s=area, color=colour, label=label)
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean confidence", aspect="equal")
    axis.set_title("selection" if stage == 0 else f"layer {stage}", fontsize=10)
    axis.grid(alpha=0.3)
