"""``mobius-seg pareto``: accuracy, time and cost of every point, as a page and as JSON."""

import argparse
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mobius_seg.bench.command import PACKAGES
from mobius_seg.bench.exporting import exports_folder
from mobius_seg.cost.certify import profile_at
from mobius_seg.errors import InputError
from mobius_seg.files import write_text
from mobius_seg.machine import processor, versions
from mobius_seg.pareto.accuracy import Figures, accuracies
from mobius_seg.pareto.front import front
from mobius_seg.pareto.page import render
from mobius_seg.pareto.point import Point, commands_for, make_point
from mobius_seg.pareto.request import Data, Setting, check_outputs, read_data, read_settings
from mobius_seg.pareto.store import Store
from mobius_seg.pareto.timing import exported, plan, timed, vocabulary
from mobius_seg.terminal import make_console, print_warning, printable


def run_pareto(options: argparse.Namespace) -> int:
    """Run the command with the options that :mod:`mobius_seg.pareto.options` describes.

    Raises:
        InputError: an option that cannot be used, or nothing that could be measured.
    """
    path = check_outputs(options.out, options.json, options.annotations)
    store = Store(path)
    data = read_data(options.annotations, options.images, options.limit)
    settings = read_settings(options)
    left_out: list[str] = []

    def leave_out(line: str) -> None:
        left_out.append(line)
        print_warning(f"left out: {line}")

    with exports_folder(options.exports) as folder:
        pairs = list(exported(plan(settings, data, options.threads), folder, leave_out, _say))
        if not pairs:
            raise InputError("nothing is left to measure")
        kept = list(dict.fromkeys(setting for setting, _ in pairs))
        found = accuracies(kept, data, options.threads, store, _say)
        _say(f"timing {len(pairs)} points in turn")
        measured = timed(pairs, options, leave_out)
    if not measured:
        raise InputError("nothing could be timed; the accuracy that was measured is kept")
    figures = dict(zip(kept, found, strict=True))
    points = make_points(measured, figures, data, options.threads)
    facts = conditions(options, data)
    page = render(points, facts, left_out)
    try:
        write_text(options.out, page)
    except OSError as error:
        raise InputError(f"{options.out}: cannot be written: {error.strerror or error}") from None
    store.finish(facts, [point.to_dict() for point in points], left_out)
    print_points(points)
    print(f"wrote {printable(str(options.out))} and {printable(str(path))}")
    return 0


def make_points(
    measured: Sequence[tuple[Setting, dict[str, Any]]],
    figures: dict[Setting, Figures],
    data: Data,
    threads: int,
) -> list[Point]:
    """Rows of the page, in the order of models, sizes, operating points and runtimes.

    Args:
        measured: settings with rows of the benchmark.
        figures: accuracy and cost of each setting.
        data: gives the names of the commands.
        threads: CPU threads.
    """
    kind = vocabulary(len(data.names))
    points = []
    for setting, row in measured:
        commands = commands_for(setting, row["runtime"], data.names, threads, kind)
        count = parameters(setting)
        points.append(make_point(setting, row, figures[setting], count, commands))
    return points


def parameters(setting: Setting) -> int:
    """Number of parameters of a model, as ``mobius-seg profile`` says it."""
    config, size = setting.config, (setting.side, setting.side)
    kept = [config.queries] * config.decoder_layers
    return profile_at(config, size, 1, None, kept).total_parameters


def conditions(options: argparse.Namespace, data: Data) -> dict[str, Any]:
    """Under which conditions the figures were measured.

    Args:
        options: of the command.
        data: the data set.
    """
    return {
        "device": processor(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "python": platform.python_version(),
        "versions": {k: v for k, v in versions(PACKAGES).items() if v is not None},
        "date": datetime.now(UTC).date().isoformat(),
        "batch": 1,
        "precision": "fp32",
        "vocabulary": vocabulary(len(data.names)),
        "runs": options.runs,
        "blocks": options.blocks,
        "threshold": 0.0,
        **data.facts,
    }


def print_points(points: Sequence[Point]) -> None:
    """The rows on the terminal; a star is on the front of mask AP and time over all of them."""
    from rich.table import Table

    on_front = front([p.latency_ms_median for p in points], [p.mask_ap for p in points])
    table = Table("", "model", "size", "point", "runtime")
    for title in ("mask AP", "ms", "ms, 95 %", "GMAC"):
        table.add_column(title, justify="right")
    for point, on in zip(points, on_front, strict=True):
        table.add_row(
            "*" if on else "",
            printable(point.model),
            str(point.side),
            point.operating_point + (" (each picture)" if point.adaptive else ""),
            point.runtime,
            f"{100 * point.mask_ap:.1f}",
            f"{point.latency_ms_median:.1f}",
            f"{point.latency_ms_p95:.1f}",
            f"{point.gmac:.3f}",
        )
    make_console().print(table)


def _say(line: str) -> None:
    """Progress, one line on standard error."""
    make_console(stderr=True).print(printable(line), soft_wrap=True)
