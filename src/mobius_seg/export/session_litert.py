"""Runs ``model.tflite`` in LiteRT's interpreter on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np

from mobius_seg.errors import InputError
from mobius_seg.export.session import Array, contiguous, one_by_one, pad_names
from mobius_seg.export.spec import OUTPUTS, TEXT, GraphFile


class LitertSession:
    """A graph of LiteRT; one picture a call, rows of zeros where there are fewer names.

    Args:
        file: the graph.
        graph: its description.
        threads: None for the interpreter's own choice.

    Raises:
        InputError: the file is no graph that this interpreter can run.
    """

    def __init__(self, file: Path, graph: GraphFile, threads: int | None) -> None:
        """See the class."""
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter: Any = Interpreter(model_path=str(file), num_threads=threads)
            self._runner: Any = self._interpreter.get_signature_runner()
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{file}: LiteRT cannot open it: {reason}") from error
        self._inputs = sorted(self._runner.get_input_details())
        self._rows = int(graph.inputs[TEXT][0]) if TEXT in graph.inputs else None

    def run(self, image_B3HW: Array, text_KD: Array | None) -> dict[str, Array]:
        """As :meth:`mobius_seg.export.session.Session.run`."""
        names = None if self._rows is None or text_KD is None else len(text_KD)
        text = () if self._rows is None else (pad_names(text_KD, self._rows),)

        def one(image_13HW: Array) -> dict[str, Array]:
            values = [contiguous(value) for value in (image_13HW, *text)]
            found = self._runner(**dict(zip(self._inputs, values, strict=True)))
            outputs = [np.array(found[f"output_{i}"], np.float32) for i in range(len(OUTPUTS))]
            named = dict(zip(OUTPUTS, outputs, strict=True))
            return {**named, "scores": named["scores"][..., :names]}

        return one_by_one(one, image_B3HW)


def open_session(file: Path, graph: GraphFile, threads: int | None) -> LitertSession:
    """Open a graph, see :class:`LitertSession`."""
    return LitertSession(file, graph, threads)
