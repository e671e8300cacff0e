"""The plots of the claims, from the result files that are there."""

from pathlib import Path
from typing import Any

from claims_page import PICTURES
from conditions import RESULTS, ROOT
from mobius_seg.files import atomic_path
from tables import json_file

Values = dict[str, Any]
FIGURES = {"mask_ap": "mask AP, %", "agnostic_mask_ap50": "class-agnostic AP50, %"}


def draw_claims(results: Path = RESULTS, folder: Path = ROOT / "docs") -> list[Path]:
    """Draw what there are results for.

    Args:
        results: folder of result files.
        folder: of the pictures.

    Returns:
        The pictures that were written.
    """
    drawers = {
        "pixel_decoder": _pixel_decoder,
        "calibration": _calibration,
        "pruning": _pruning,
        "training": _training,
    }
    written = []
    for claim, draw in drawers.items():
        stored = json_file(results / f"{claim}.json")
        if not stored:
            continue
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        columns = len(stored) if claim == "pruning" else 2
        figure, axes = pyplot.subplots(
            1, columns, figsize=(5.2 * columns, 4), layout="constrained", squeeze=False
        )
        draw(axes[0], stored)
        for axis in axes[0]:
            axis.grid(alpha=0.3)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=7)
        with atomic_path(folder / PICTURES[claim]) as temporary:
            figure.savefig(temporary, dpi=90)
        pyplot.close(figure)
        written.append(folder / PICTURES[claim])
    return written


def _spread(values: Values) -> list[list[float]]:
    """Distances down and up from the mean to the extremes, per cent."""
    known = [value for value in values["values"] if value is not None]
    return [[100 * (values["mean"] - min(known))], [100 * (max(known) - values["mean"])]]


def _pixel_decoder(axes: Any, stored: Values) -> None:
    for axis, (key, label) in zip(axes, FIGURES.items(), strict=True):
        for name, values in stored["variants"].items():
            if values[key]["mean"] is None:
                continue
            gmac = values["gmac"]["800x1344"]["pixel_decoder"]
            mean = 100 * values[key]["mean"]
            axis.errorbar([gmac], [mean], yerr=_spread(values[key]), fmt="o", capsize=3, label=name)
        axis.set(xlabel="pixel decoder, GMAC at 800x1344", ylabel=label, xscale="log")


def _calibration(axes: Any, stored: Values) -> None:
    for axis, form in zip(axes, ("raw", "mapped"), strict=True):
        for name, values in stored["variants"].items():
            errors = [stage[form]["laece0"]["mean"] for stage in values["stages"]]
            axis.plot(range(len(errors)), [_nan(e) for e in errors], marker="o", label=name)
        title = "raw" if form == "raw" else "with isotonic maps"
        axis.set(xlabel="stage", ylabel="LaECE_0", title=title)


def _pruning(axes: Any, stored: Values) -> None:
    for axis, (model, values) in zip(axes, stored.items(), strict=True):
        methods: dict[str, list[tuple[float, float]]] = {}
        for cell, found in values["cells"].items():
            point = (found["decoder_gmac"], 100 * _nan(found["mask_ap"]))
            methods.setdefault(cell.partition("@")[0], []).append(point)
        for method, points in methods.items():
            style = "o" if method == "full" else "o-"
            axis.plot(*zip(*sorted(points), strict=True), style, markersize=4, label=method)
        axis.set(xlabel="decoder, GMAC a picture", ylabel="mask AP, %", title=model)


def _training(axes: Any, stored: Values) -> None:
    for axis, (key, label) in zip(axes, FIGURES.items(), strict=True):
        for name, values in stored["variants"].items():
            steps = sorted({int(step) for curve in values["curves"] for step in curve})
            means = []
            for step in steps:
                known = [
                    curve[str(step)][key]
                    for curve in values["curves"]
                    if str(step) in curve and curve[str(step)][key] is not None
                ]
                means.append(100 * sum(known) / len(known) if known else float("nan"))
            (line,) = axis.plot(steps, means, marker=".", linewidth=1, label=name)
            if values[key]["mean"] is not None:
                end, spread = 100 * values[key]["mean"], _spread(values[key])
                axis.errorbar(
                    [values["steps"]],
                    [end],
                    yerr=spread,
                    fmt="D",
                    capsize=3,
                    color=line.get_color(),
                )
        axis.set(xlabel="iterations", ylabel=label)


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
