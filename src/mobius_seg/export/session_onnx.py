"""Runs ``model.onnx`` in ONNX Runtime on the CPU."""

from pathlib import Path
from typing import Any

from mobius_seg.errors import InputError
from mobius_seg.export.session import Array, contiguous
from mobius_seg.export.spec import IMAGE, OUTPUTS, TEXT, GraphFile


class OnnxSession:
    """A session of ONNX Runtime.

    Args:
        file: the graph.
        graph: its description.
        threads: inside an operator; None for one a core. Threads do not spin while they wait, so
            that sessions beside each other do not fight for cores.

    Raises:
        InputError: the file is no graph that ONNX Runtime can run.
    """

    def __init__(self, file: Path, graph: GraphFile, threads: int | None) -> None:
        """See the class."""
        import onnxruntime

        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(file), session_options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's own kinds share no base but this one
            reason = str(error).splitlines()[0][:200]
            raise InputError(f"{file}: ONNX Runtime cannot open it: {reason}") from error
        self._dynamic = TEXT in graph.inputs

    def run(self, image_B3HW: Array, text_KD: Array | None) -> dict[str, Array]:
        """As :meth:`mobius_seg.export.session.Session.run`."""
        feed = {IMAGE: contiguous(image_B3HW)}
        if self._dynamic:
            assert text_KD is not None, "this graph takes text vectors"
            feed[TEXT] = contiguous(text_KD)
        return dict(zip(OUTPUTS, self._session.run(list(OUTPUTS), feed), strict=True))


def session_options(threads: int | None) -> Any:
    """Options of a session, see :class:`OnnxSession`."""
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_session(file: Path, graph: GraphFile, threads: int | None) -> OnnxSession:
    """Open a graph, see :class:`OnnxSession`."""
    return OnnxSession(file, graph, threads)
