"""Runs ``model.pte`` in ExecuTorch's own runtime on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mobius_seg.errors import InputError
from mobius_seg.export.session import Array, contiguous, one_by_one, pad_names
from mobius_seg.export.spec import OUTPUTS, TEXT, GraphFile


class ExecutorchSession:
    """A program of ExecuTorch; one picture a call, rows of zeros where there are fewer names.

    Args:
        file: the program.
        graph: its description.
        threads: of XNNPACK, which all programs of a process share; None for its own choice.

    Raises:
        InputError: the file is no program that this runtime can run.
    """

    def __init__(self, file: Path, graph: GraphFile, threads: int | None) -> None:
        """See the class."""
        from executorch.runtime import Runtime

        if threads is not None:
            from executorch.extension.pybindings import portable_lib

            portable_lib._unsafe_reset_threadpool(threads)
        try:
            self._program: Any = Runtime.get().load_program(str(file))
            self._method: Any = self._program.load_method("forward")
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{file}: ExecuTorch cannot open it: {reason}") from error
        self._rows = int(graph.inputs[TEXT][0]) if TEXT in graph.inputs else None

    def run(self, image_B3HW: Array, text_KD: Array | None) -> dict[str, Array]:
        """As :meth:`mobius_seg.export.session.Session.run`."""
        names = None if self._rows is None or text_KD is None else len(text_KD)
        text = () if self._rows is None else (pad_names(text_KD, self._rows),)

        def one(image_13HW: Array) -> dict[str, Array]:
            inputs = [torch.from_numpy(contiguous(value)) for value in (image_13HW, *text)]
            found = self._method.execute(inputs)
            # Copies: the program's outputs lie in memory that the next call writes.
            values = {
                name: np.array(value.numpy(), np.float32)
                for name, value in zip(OUTPUTS, found, strict=True)
            }
            return {**values, "scores": values["scores"][..., :names]}

        return one_by_one(one, image_B3HW)


def open_session(file: Path, graph: GraphFile, threads: int | None) -> ExecutorchSession:
    """Open a program, see :class:`ExecutorchSession`."""
    return ExecutorchSession(file, graph, threads)
