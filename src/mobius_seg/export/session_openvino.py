"""Runs ``model.xml`` in OpenVINO on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np

from mobius_seg.errors import InputError
from mobius_seg.export.session import Array, contiguous
from mobius_seg.export.spec import IMAGE, OUTPUTS, TEXT, GraphFile


class OpenVinoSession:
    """A compiled model of OpenVINO; arithmetic is in float32 whatever the weights are stored in.

    Args:
        file: the ``.xml``, its ``.bin`` beside it.
        graph: its description.
        threads: None for OpenVINO's own choice.

    Raises:
        InputError: the file is no model that OpenVINO can run.
    """

    def __init__(self, file: Path, graph: GraphFile, threads: int | None) -> None:
        """See the class."""
        import openvino

        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            core: Any = openvino.Core()
            self._model: Any = core.compile_model(core.read_model(str(file)), "CPU", settings)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{file}: OpenVINO cannot open it: {reason}") from error
        self._dynamic = TEXT in graph.inputs

    def run(self, image_B3HW: Array, text_KD: Array | None) -> dict[str, Array]:
        """As :meth:`mobius_seg.export.session.Session.run`."""
        feed = {IMAGE: contiguous(image_B3HW)}
        if self._dynamic:
            assert text_KD is not None, "this graph takes text vectors"
            feed[TEXT] = contiguous(text_KD)
        found = self._model(feed)
        return {name: np.array(found[name], np.float32) for name in OUTPUTS}


def open_session(file: Path, graph: GraphFile, threads: int | None) -> OpenVinoSession:
    """Open a model, see :class:`OpenVinoSession`."""
    return OpenVinoSession(file, graph, threads)
