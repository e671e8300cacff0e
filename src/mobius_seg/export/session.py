"""What runs a graph: one small module for each runtime, found by its name.

``mobius_seg.export.session_<runtime>`` has ``open_session(file, graph, threads)``.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mobius_seg.errors import InputError
from mobius_seg.export.spec import TEXT, GraphFile

Array = NDArray[Any]


class Session(Protocol):
    """A graph that can be run."""

    def run(self, image_B3HW: Array, text_KD: Array | None) -> dict[str, Array]:
        """Outputs by name: ``scores``, ``objectness``, ``boxes``, ``masks``, all float32.

        Args:
            image_B3HW: float32, RGB in 0..1, of a size that the graph takes.
            text_KD: float32, where the vocabulary is an input.
        """


def open_session(runtime: str, folder: Path, graph: GraphFile, threads: int | None) -> Session:
    """Open a graph of an exported folder.

    Args:
        runtime: of the folder.
        folder: that holds the file.
        graph: which one.
        threads: CPU threads; None for the runtime's own choice.

    Raises:
        InputError: the file is missing or broken, or this version runs no such graphs.
    """
    file = folder / graph.file
    if not file.is_file():
        raise InputError(f"{file}: no such file; export the model again")
    try:
        module = importlib.import_module(f"mobius_seg.export.session_{runtime}")
    except ModuleNotFoundError as error:
        if error.name != f"mobius_seg.export.session_{runtime}":
            raise
        raise InputError(f"{folder}: this version cannot run graphs for {runtime}") from None
    session: Session = module.open_session(file, graph, threads)
    return session


def contiguous(array: Array) -> Array:
    """Float32 in the order that runtimes read."""
    return np.ascontiguousarray(array, np.float32)


def one_by_one(run: Callable[[Array], dict[str, Array]], image_B3HW: Array) -> dict[str, Array]:
    """A batch through something that takes one picture a call.

    Args:
        run: outputs of one picture, [1, 3, H, W].
        image_B3HW: B pictures, at least one.
    """
    rows = [run(image_B3HW[row : row + 1]) for row in range(len(image_B3HW))]
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}


def text_rows(graph: GraphFile) -> int | None:
    """Rows of the input ``text`` of a graph of fixed shapes; None where it has no such input."""
    return int(graph.inputs[TEXT][0]) if TEXT in graph.inputs else None


def run_static(
    call: Callable[..., dict[str, Array]],
    rows: int | None,
    image_B3HW: Array,
    text_KD: Array | None,
) -> dict[str, Array]:
    """A batch through a graph of fixed shapes: one picture a call, names padded with zeros.

    Args:
        call: outputs by name of one picture, [1, 3, H, W], and of the padded text vectors where
            there are any; what it returns is not written again.
        rows: of :func:`text_rows`.
        image_B3HW: B pictures, at least one.
        text_KD: float32, where the vocabulary is an input.

    Raises:
        InputError: there are more names than rows.
    """
    names = None if rows is None or text_KD is None else len(text_KD)
    text = () if rows is None else (contiguous(pad_names(text_KD, rows)),)

    def one(image_13HW: Array) -> dict[str, Array]:
        values = call(contiguous(image_13HW), *text)
        return {**values, "scores": values["scores"][..., :names]}

    return one_by_one(one, image_B3HW)


def pad_names(text_KD: Array | None, rows: int) -> Array:
    """Text vectors with rows of zeros below, which a padded graph does not read.

    Args:
        text_KD: float32 [K, D].
        rows: that the graph takes.

    Raises:
        InputError: there are more names than rows.
    """
    assert text_KD is not None, "this graph takes text vectors"
    if len(text_KD) > rows:
        raise InputError(
            f"{len(text_KD)} names are asked for, and this export takes {rows} at most; export with"
            f" --names-count {len(text_KD)}"
        )
    return np.concatenate([text_KD, np.zeros((rows - len(text_KD), text_KD.shape[1]), np.float32)])
