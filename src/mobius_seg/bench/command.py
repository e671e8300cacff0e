"""``mobius-seg bench``: what is asked for, measured, as a table and as JSON."""

import argparse
import dataclasses
import json
import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mobius_seg.bench.contenders import (
    PRECISIONS,
    RUNTIMES,
    STAGES,
    VOCABULARIES,
    Contender,
    Wish,
    find_peer,
    own_config,
    read_models,
    split,
)
from mobius_seg.bench.exporting import exports_folder, with_exports
from mobius_seg.bench.interleave import Measured, measure, rows
from mobius_seg.bench.tables import print_rows, print_stages
from mobius_seg.cost.report import check_size, points_of
from mobius_seg.errors import InputError
from mobius_seg.files import write_text
from mobius_seg.machine import processor, versions
from mobius_seg.terminal import make_console, print_warning, shows_progress
from mobius_seg.text_cache import default_cache_dir

PACKAGES = (
    *("mobius-seg", "torch", "timm", "numpy", "onnxruntime", "openvino", "executorch"),
    "ai-edge-litert",
)
_PEER_SIZE = (640, 640)
_FORMAT = 1


def run_bench(options: argparse.Namespace) -> int:
    """Run the command with the options that :mod:`mobius_seg.bench.options` describes.

    Raises:
        InputError: an option that cannot be used, or nothing that could be measured.
    """
    wish = read_wish(options)
    left_out: list[str] = []

    def leave_out(line: str) -> None:
        left_out.append(line)
        print_warning(f"left out: {line}")

    with exports_folder(options.exports) as folder:
        pictures = options.calibration_images
        ours = list(with_exports(list(wish.contenders()), folder, leave_out, pictures))
        peers = _find_peers(options, leave_out)
        contenders = [*ours, *_stages_of(ours), *peers]
        if not contenders:
            raise InputError("nothing is left to measure")
        measured = measure_all(contenders, options, leave_out)
    if not measured:
        raise InputError("nothing could be measured")
    timed = [one for one in measured if one.contender.runtime != STAGES]
    values: dict[str, Any] = {
        "format": _FORMAT,
        "conditions": conditions(options),
        "rows": rows(timed),
        "stages": [_stage_entry(one) for one in measured if one.contender.runtime == STAGES],
        "left_out": left_out,
    }
    print_rows(values["rows"])
    print_stages(values["stages"])
    if options.json is not None:
        _write(options.json, values)
    return 0


def read_wish(options: argparse.Namespace) -> Wish:
    """The options, checked before anything is loaded or exported.

    Raises:
        InputError: one cannot be used.
    """
    if options.size is not None:
        check_size(options.size)
    wish = Wish(
        models=read_models(options.models, options.size),
        runtimes=split(options.runtimes, "--runtimes", RUNTIMES),
        operating_points=split(options.operating_points, "--operating-points"),
        precisions=split(options.precisions, "--precisions", PRECISIONS),
        vocabularies=split(options.vocabulary, "--vocabulary", VOCABULARIES),
        names=options.names_count,
        threads=options.threads,
    )
    if ("int8" in wish.precisions) != (options.calibration_images is not None):
        raise InputError("--precisions int8 and --calibration-images belong together")
    if options.calibration_images is not None and not options.calibration_images.is_dir():
        raise InputError(f"{options.calibration_images}: no such folder of pictures")
    for model, _ in wish.models:
        points = points_of(model)
        for point in wish.operating_points:
            points.policy(point)
    return wish


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Under which conditions the figures were measured, without a path of this machine."""
    asked = {
        key: getattr(options, key)
        for key in ("models", "runtimes", "operating_points", "precisions", "vocabulary", "peers")
    }
    return {
        "device": processor(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
        "date": datetime.now(UTC).date().isoformat(),
        "batch": 1,
        "names": options.names_count,
        "runs": options.runs,
        "blocks": options.blocks,
        "size": None if options.size is None else list(options.size),
        **{key: value for key, value in asked.items() if value},
    }


def _find_peers(options: argparse.Namespace, left_out: Callable[[str], None]) -> list[Contender]:
    """Peers whose files are there."""
    if not options.peers:
        return []
    folder: Path = options.peers_dir or default_cache_dir() / "peers"
    found = []
    for name in split(options.peers, "--peers"):
        try:
            found.append(find_peer(name, folder, options.size or _PEER_SIZE, options.threads))
        except InputError as error:
            left_out(str(error))
    return found


def _stages_of(contenders: Sequence[Contender]) -> list[Contender]:
    """Where a model runs in torch, its parts are timed as well."""
    return [
        dataclasses.replace(contender, runtime=STAGES)
        for contender in contenders
        if contender.runtime == "torch" and not own_config(contender.model).fuse_subwords
    ]


def measure_all(
    contenders: Sequence[Contender],
    options: argparse.Namespace,
    left_out: Callable[[str], None],
) -> list[Measured]:
    """All blocks, under a progress bar where one can be seen.

    Args:
        contenders: what is measured.
        options: with ``runs`` and ``blocks``.
        left_out: told in one line of each contender that cannot be measured.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = make_console(stderr=True)
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn())
    hidden = not shows_progress(console)
    with Progress(*columns, console=console, disable=hidden, transient=True) as bar:
        task = bar.add_task("", total=len(contenders) * options.blocks)
        return measure(
            contenders, options.runs, options.blocks, left_out, lambda: bar.advance(task)
        )


def _stage_entry(one: Measured) -> dict[str, Any]:
    """Parts of one model at one point."""
    from mobius_seg.bench.stages import summary

    contender = one.contender
    return {
        "model": contender.model,
        "operating_point": contender.operating_point,
        "size": list(contender.size),
        **summary(one.facts, one.more),
    }


def _write(path: Path, values: dict[str, Any]) -> None:
    try:
        write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
