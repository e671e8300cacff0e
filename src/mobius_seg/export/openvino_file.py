"""``model.xml`` and ``model.bin``: OpenVINO's form of the ONNX file."""

from pathlib import Path
from typing import Any


def write_openvino(onnx_file: Path, file: Path, *, half: bool = False) -> None:
    """Convert an ONNX file.

    Args:
        onnx_file: of :func:`mobius_seg.export.onnx_file.write_onnx`, in float32.
        file: the ``.xml`` to write; the weights go beside it.
        half: weights are stored in float16; arithmetic is the device's choice.
    """
    import openvino

    model: Any = openvino.convert_model(str(onnx_file))
    openvino.save_model(model, str(file), compress_to_fp16=half)
