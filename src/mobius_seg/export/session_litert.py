"""Runs ``model.tflite`` in LiteRT's interpreter on the CPU, on XNNPACK wherever that can."""

from pathlib import Path
from typing import Any

from mobius_seg.errors import InputError
from mobius_seg.export.session import Array, run_static, text_rows
from mobius_seg.export.spec import IMAGE, TEXT, GraphFile


class LitertSession:
    """A model of LiteRT; one picture a call, rows of zeros where there are fewer names.

    Args:
        file: the model.
        graph: its description.
        threads: of the CPU; None for the interpreter's own choice.

    Raises:
        InputError: the file is no model that this interpreter can run.
    """

    def __init__(self, file: Path, graph: GraphFile, threads: int | None) -> None:
        """See the class."""
        from ai_edge_litert.interpreter import Interpreter

        try:
            # The runner lives on what the interpreter holds.
            self._interpreter: Any = Interpreter(model_path=str(file), num_threads=threads)
            self._interpreter.allocate_tensors()
            self._runner: Any = self._interpreter.get_signature_runner()
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{file}: LiteRT cannot open it: {reason}") from error
        self._rows = text_rows(graph)
        self._check(file, graph)

    def _check(self, file: Path, graph: GraphFile) -> None:
        """See that the file is the one that its description speaks of."""
        for said, found in (
            (graph.inputs, self._runner.get_input_details()),
            (graph.outputs, self._runner.get_output_details()),
        ):
            shapes = {name: [int(side) for side in one["shape"]] for name, one in found.items()}
            if shapes != dict(said):
                raise InputError(
                    f"{file}: has {shapes}, model.json beside it says {dict(said)}; export again"
                )

    def run(self, image_B3HW: Array, text_KD: Array | None) -> dict[str, Array]:
        """As :meth:`mobius_seg.export.session.Session.run`."""
        return run_static(self._call, self._rows, image_B3HW, text_KD)

    def _call(self, *inputs: Array) -> dict[str, Array]:
        """Outputs of one picture; the runner copies them out of the model's memory."""
        found: dict[str, Array] = self._runner(**dict(zip((IMAGE, TEXT), inputs, strict=False)))
        return found


def open_session(file: Path, graph: GraphFile, threads: int | None) -> LitertSession:
    """Open a model, see :class:`LitertSession`."""
    return LitertSession(file, graph, threads)
