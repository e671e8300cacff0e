"""Folders of graphs for a benchmark, made by ``mobius-seg export`` in a process of its own."""

import contextlib
import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mobius_seg.bench.contenders import EAGER, Contender
from mobius_seg.bundle_names import COCO_NAMES, bundled_names
from mobius_seg.errors import InputError


def with_exports(
    contenders: Sequence[Contender],
    folder: Path,
    left_out: Callable[[str], None],
    pictures: Path | None = None,
) -> Iterator[Contender]:
    """The contenders with the folders of their graphs, which are exported where they lack.

    Args:
        contenders: of ours.
        folder: where they are kept; a folder that holds ``model.json`` is taken as it is.
        left_out: told in one line of each that cannot be exported.
        pictures: folder of pictures that int8 graphs are calibrated with.
    """
    for contender in contenders:
        if contender.runtime in EAGER:
            yield contender
            continue
        path = folder / folder_name(contender)
        try:
            if not (path / "model.json").is_file():
                export(contender, path, pictures)
        except InputError as error:
            left_out(str(error))
            continue
        yield dataclasses.replace(contender, path=str(path))


@contextlib.contextmanager
def exports_folder(folder: Path | None) -> Iterator[Path]:
    """The user's folder of exports, or one that is gone afterwards."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="mobius-seg-bench-") as temporary:
        yield Path(temporary)


def folder_name(contender: Contender) -> str:
    """Name of the folder of a contender's graph; says everything that the graph depends on."""
    height, width = contender.size
    names = f"{contender.names}names" if contender.vocabulary == "fixed" else "any"
    model = contender.model.replace("/", "_")
    parts = (model, contender.runtime, contender.operating_point, contender.precision)
    return "_".join((*parts, names, f"{height}x{width}"))


def export(contender: Contender, path: Path, pictures: Path | None = None) -> None:
    """Run ``mobius-seg export``.

    Args:
        contender: what is exported.
        path: folder of the graph.
        pictures: see :func:`with_exports`.

    Raises:
        InputError: it failed; its last line says why.
    """
    height, width = contender.size
    vocabulary = ["--dynamic-names"]
    if contender.vocabulary == "fixed":
        vocabulary = ["--names", ",".join(fixed_names(contender.names))]
    calibration: list[str] = []
    if contender.precision == "int8":
        calibration = [] if pictures is None else ["--calibration-images", str(pictures)]
    command = [
        *(sys.executable, "-m", "mobius_seg", "export"),
        *("--model", contender.model, "--format", contender.runtime),
        *("--operating-point", contender.operating_point, "--precision", contender.precision),
        *("--size", f"{height}x{width}", *vocabulary, *calibration, "--out", str(path)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InputError(f"{contender.label}: cannot be exported: {lines[-1]}")


def fixed_names(count: int) -> list[str]:
    """So many names whose text vectors ship with the package, COCO's first.

    Raises:
        InputError: there are not so many.
    """
    known = [*COCO_NAMES, *(name for name in bundled_names() if name not in COCO_NAMES)]
    plain = [name for name in known if "," not in name]
    if count > len(plain):
        raise InputError(
            f"{count} names for a graph with fixed names; allowed: up to {len(plain)}, or"
            " --vocabulary dynamic"
        )
    return plain[:count]
