"""Runs ``model.pte`` in ExecuTorch's own runtime on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mobius_seg.errors import InputError
from mobius_seg.export.session import Array, run_static, text_rows
from mobius_seg.export.spec import OUTPUTS, GraphFile


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
        self._rows = text_rows(graph)

    def run(self, image_B3HW: Array, text_KD: Array | None) -> dict[str, Array]:
        """As :meth:`mobius_seg.export.session.Session.run`."""
        return run_static(self._call, self._rows, image_B3HW, text_KD)

    def _call(self, *inputs: Array) -> dict[str, Array]:
        """Outputs of one picture, copied: they lie in memory that the next call writes."""
        found = self._method.execute([torch.from_numpy(value) for value in inputs])
        values = zip(OUTPUTS, found, strict=True)
        return {name: np.array(value.numpy(), np.float32) for name, value in values}


def open_session(file: Path, graph: GraphFile, threads: int | None) -> ExecutorchSession:
    """Open a program, see :class:`ExecutorchSession`."""
    return ExecutorchSession(file, graph, threads)
