"""``mobius-seg calibrate`` and the calibration part of ``mobius-seg eval``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobius_seg.errors import InputError
from mobius_seg.files import check_output
from mobius_seg.terminal import print_warning

if TYPE_CHECKING:
    from mobius_seg.calibration_file import PrecisionTable
    from mobius_seg.predictor import Predictor

FEW = 100
"""Pictures below which a fit is warned about (ours)."""
_PRECISIONS = (0.5, 0.75, 0.9)


def run_calibrate(options: argparse.Namespace) -> int:
    """Fit, store and report.

    Returns:
        The exit code.

    Raises:
        InputError: something that the user gave cannot be used.
    """
    import torch

    from mobius_seg.checkpoint import POINTS_FILE, load_model, weights_digest
    from mobius_seg.evaluate.calibrate import calibrate, output_folder, store
    from mobius_seg.predict_arguments import check_size
    from mobius_seg.predictor import Predictor

    source, target = output_folder(options.model, options.out)
    if options.size is not None:
        check_size(options.size)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    # Without the calibration that may be there: it is replaced, even if it is broken.
    predictor = Predictor(load_model(options.model), device=options.device)
    calibration, reports = calibrate(
        predictor,
        options.annotations,
        options.images,
        weights_sha256=weights_digest(source),
        asked=options.names_asked,
        size=options.size,
        limit=options.limit,
    )
    points = target / POINTS_FILE
    tuned = points.exists()
    path = store(calibration, source, target)
    for mode, report in reports.items():
        print_report(report, f"mode {mode}, on the calibration set itself")
    for mode in reports:
        print(f"mode {mode}: {advice(calibration.table(mode))}")
    warn_if_few(calibration.fitted_on["images"])
    if tuned and not points.exists():
        print(f"removed {points}, tuned with other score maps: run mobius-seg tune-pruning again")
    print(f"wrote {path}")
    return 0


def advice(table: "PrecisionTable") -> str:
    """Score thresholds of some precisions, in words."""
    parts = []
    for precision in _PRECISIONS:
        try:
            parts.append(f"precision {precision} from score {table.threshold_for(precision):.2f}")
        except InputError:
            parts.append(f"precision {precision} is not reached")
            break
    return ", ".join(parts)


def warn_if_few(images: int) -> None:
    """Say so where a fit rests on few pictures."""
    if images < FEW:
        print_warning(f"{images} pictures are few to fit on; {FEW} or more make figures that hold")


def check_eval_options(options: argparse.Namespace) -> None:
    """Refuse files and calibration options of ``eval`` that cannot be meant, before anything runs.

    Raises:
        InputError: names the option.
    """
    for path, option in (
        (options.out, "--out"),
        (options.calibration_plot, "--calibration-plot"),
    ):
        if path is not None:
            check_output(path, option, options.annotations, options.expressions)
    if not options.calibration:
        if options.calibration_plot is not None:
            raise InputError("--calibration-plot goes with --calibration")
        if options.names_asked is not None:
            raise InputError("--names-asked goes with --calibration; AP is taken over all names")
        return
    if options.mode == "expressions":
        raise InputError(
            "--calibration is not defined with --mode expressions; allowed: names, everything"
        )
    if options.operating_point not in (None, "full") or options.recognise:
        raise InputError(
            "--calibration looks at the whole decoder and its own names; give it without"
            " --operating-point and --recognise"
        )
    if options.names_asked is not None and options.mode != "names":
        raise InputError(f"--names-asked goes with --mode names, not {options.mode}")
    path = plot_path(options)
    if path is not None and path == options.out:
        raise InputError(f"{path}: --out and --calibration-plot name one file")
    if path is not None and path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise InputError(f"{path}: --calibration-plot must end in .png, .pdf or .svg")


def plot_path(options: argparse.Namespace) -> Path | None:
    """Where the reliability diagrams of ``eval`` go, None for nowhere."""
    if options.calibration_plot is not None:
        return Path(options.calibration_plot)
    return None if options.out is None else Path(options.out).with_suffix(".png")


def report_of(predictor: "Predictor", options: argparse.Namespace) -> dict[str, Any]:
    """The errors that ``eval --calibration`` asks for; draws the diagrams too.

    Raises:
        InputError: something that the user gave cannot be used.
    """
    from mobius_seg.evaluate.calibrate import calibration_report

    return calibration_report(
        predictor,
        options.annotations,
        options.images,
        mode=options.mode,
        asked=options.names_asked,
        size=options.size,
        limit=options.limit,
        plot=plot_path(options),
    )


def print_report(report: dict[str, Any], title: str = "") -> None:
    """Print the errors of every stage as a table.

    Args:
        report: of :func:`mobius_seg.evaluate.calibrate.error_report`.
        title: what they were taken on.
    """
    from rich.table import Table

    from mobius_seg.terminal import make_console

    kinds = ("raw", "mapped") if report["mapped"] else ("raw",)
    table = Table(title=title or None)
    table.add_column("stage")
    for column in ("detections", "rank corr."):
        table.add_column(column, justify="right")
    for figure in ("LaECE_0", "D-ECE"):
        for kind in kinds:
            table.add_column(f"{figure} {kind}" if len(kinds) > 1 else figure, justify="right")
    for entry in report["stages"]:
        stage = entry["stage"]
        cells = [entry[kind][key] for key in ("laece0", "d_ece") for kind in kinds]
        table.add_row(
            "selection" if stage == 0 else f"layer {stage}",
            str(entry["detections"]),
            *(_number(value) for value in (entry["rank_correlation"], *cells)),
        )
    make_console().print(table)


def _number(value: float | None) -> str:
    """A figure, or that there is none."""
    return "undefined" if value is None else f"{value:.4f}"
