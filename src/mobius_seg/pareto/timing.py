"""Latency of every setting in every runtime, measured as ``mobius-seg bench`` does.

All of them take turns in one run; nothing here times anything itself.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mobius_seg.bench.command import measure_all
from mobius_seg.bench.contenders import EAGER, Contender
from mobius_seg.bench.exporting import fixed_names, with_exports
from mobius_seg.bench.interleave import rows
from mobius_seg.errors import InputError
from mobius_seg.export.spec import ExportSpec
from mobius_seg.pareto.request import Data, Setting

SCENES = 16
"""Pictures that an adaptive point is timed on in turn."""

Pair = tuple[Setting, Contender]


def plan(settings: Sequence[Setting], data: Data, threads: int) -> list[Pair]:
    """What is timed, without the folders of graphs.

    Args:
        settings: each in its runtimes.
        data: gives the number of names, and to adaptive points names and pictures.
        threads: CPU threads.
    """
    names = len(data.names)
    kind, scenes = vocabulary(names), data.scenes(SCENES)
    pairs = []
    for setting in settings:
        for runtime in setting.runtimes:
            contender = Contender(
                model=setting.model,
                runtime=runtime,
                size=(setting.side, setting.side),
                names=names,
                threads=threads,
                operating_point=setting.schedule.point,
                vocabulary="" if runtime in EAGER else kind,
                scenes=scenes if setting.adaptive else (),
                asked=data.names if setting.adaptive else (),
            )
            pairs.append((setting, contender))
    return pairs


def vocabulary(names: int) -> str:
    """Whether graphs hold so many names, as the benchmark's do, or take them with every call."""
    try:
        fixed_names(names)
    except InputError:
        return "dynamic"
    return "fixed"


def exported(
    pairs: Sequence[Pair],
    folder: Path,
    left_out: Callable[[str], None],
    say: Callable[[str], None],
) -> Iterator[Pair]:
    """The pairs, their graphs exported where they are not there.

    Args:
        pairs: of :func:`plan`.
        folder: of the graphs.
        left_out: told in one line of each that cannot be exported.
        say: told of each graph that is there.

    Raises:
        InputError: a folder that was there holds another graph.
    """
    for setting, contender in pairs:
        for ready in with_exports([contender], folder, left_out):
            if ready.path:
                check_graph(setting, Path(ready.path))
                say(f"graph of {ready.label}")
            yield setting, ready


def check_graph(setting: Setting, path: Path) -> None:
    """See that a graph was made of these weights with this schedule.

    Raises:
        InputError: it was not.
    """
    spec = ExportSpec.read(path)
    queries = list(setting.schedule.queries(setting.config))
    if spec.weights.get("sha256") != setting.weights or spec.schedule.get("queries") != queries:
        raise InputError(
            f"{path}: holds a graph of other weights or another schedule; delete it, or give"
            " another --exports"
        )


def timed(
    pairs: Sequence[Pair], options: argparse.Namespace, left_out: Callable[[str], None]
) -> list[tuple[Setting, dict[str, Any]]]:
    """Time the pairs in turn.

    Args:
        pairs: with the folders of their graphs.
        options: with ``runs`` and ``blocks``.
        left_out: told in one line of each that cannot be timed.

    Returns:
        Settings with a row of ``mobius-seg bench`` for each contender that could be timed.
    """
    setting_of = {contender: setting for setting, contender in pairs}
    measured = measure_all(list(setting_of), options, left_out)
    contenders = [one.contender for one in measured]
    return [(setting_of[c], row) for c, row in zip(contenders, rows(measured), strict=True)]
