"""What runs a graph: one small module for each runtime, found by its name.

``mobius_seg.export.session_<runtime>`` has ``open_session(file, graph, threads)``.
"""

import importlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mobius_seg.errors import InputError
from mobius_seg.export.spec import GraphFile

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
