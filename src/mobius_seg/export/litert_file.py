"""``model.tflite``: the graph for LiteRT."""

from pathlib import Path
from typing import Any

from mobius_seg.export.graph import ExportGraph, example_inputs
from mobius_seg.export.onnx_file import quiet


def write_litert(
    graph: ExportGraph, file: Path, size: tuple[int, int], names: int | None = None
) -> dict[str, Any]:
    """Write a graph for one picture a call, of one size.

    Args:
        graph: what is exported; padded where the vocabulary is an input.
        file: to write.
        size: height and width in pixels.
        names: rows of the input ``text``, where there is one.

    Returns:
        What ``model.json`` says about it: the signature to call.
    """
    import litert_torch

    inputs = example_inputs(graph, *size, batch=1, names=names or 1)
    with quiet():
        converted: Any = litert_torch.convert(graph, inputs)
    converted.export(str(file))
    return {"signature": SIGNATURE}


SIGNATURE = "serving_default"
