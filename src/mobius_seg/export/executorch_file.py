"""``model.pte``: the graph for ExecuTorch, on XNNPACK wherever that has the operator."""

from pathlib import Path
from typing import Any

from mobius_seg.export.graph import ExportGraph, make_program
from mobius_seg.export.onnx_file import quiet

DELEGATE = "executorch_call_delegate"


def write_executorch(
    graph: ExportGraph, file: Path, size: tuple[int, int], names: int | None = None
) -> dict[str, Any]:
    """Write a graph for one picture a call, of one size.

    Args:
        graph: what is exported; padded where the vocabulary is an input.
        file: to write.
        size: height and width in pixels.
        names: rows of the input ``text``, where there is one.

    Returns:
        What ``model.json`` says about it: parts that XNNPACK runs, and operators outside of them.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = make_program(graph, *size, dynamic_batch=False, names=names)
    with quiet("executorch"):
        lowered: Any = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        facts = lowered_facts(lowered.exported_program().graph)
        with file.open("wb") as stream:
            lowered.to_executorch().write_to_file(stream)
    return facts


def lowered_facts(graph: Any) -> dict[str, Any]:
    """How a lowered graph is divided.

    Args:
        graph: of the lowered program.

    Returns:
        ``xnnpack_parts``, and ``portable_operators`` by count: what XNNPACK does not run.
    """
    outside: dict[str, int] = {}
    parts = 0
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        name = str(getattr(node.target, "__name__", node.target))
        if name == DELEGATE:
            parts += 1
        elif name != "getitem":
            outside[name] = outside.get(name, 0) + 1
    return {"xnnpack_parts": parts, "portable_operators": dict(sorted(outside.items()))}
