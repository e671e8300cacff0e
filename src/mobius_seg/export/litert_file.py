"""``model.tflite``: the graph for LiteRT, which phones' XNNPACK runs wherever it can."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mobius_seg.errors import InputError
from mobius_seg.export.graph import ExportGraph, example_inputs
from mobius_seg.export.onnx_file import quiet
from mobius_seg.export.spec import IMAGE, OUTPUTS, TEXT
from mobius_seg.export.windows import low_rank_windows

DELEGATE = "DELEGATE"
_UNKNOWN = "Lowering not found: "  # how litert-torch's message about an operator begins


class NamedGraph(nn.Module):
    """A graph that says its outputs by name, which become those of the file's signature.

    Args:
        graph: what is exported.
    """

    def __init__(self, graph: ExportGraph) -> None:
        """See the class."""
        super().__init__()
        self.inner = graph  # not "graph": modules that torch.export makes have one of their own

    def forward(self, image: Tensor, text: Tensor | None = None) -> dict[str, Tensor]:
        """As :meth:`mobius_seg.export.graph.ExportGraph.forward`, by name."""
        return dict(zip(OUTPUTS, self.inner(image, text), strict=True))


def write_litert(
    graph: ExportGraph,
    file: Path,
    size: tuple[int, int],
    names: int | None = None,
    *,
    half: bool = False,
) -> dict[str, Any]:
    """Write a graph for one picture a call, of one size.

    Args:
        graph: what is exported; padded where the vocabulary is an input.
        file: to write.
        size: height and width in pixels.
        names: rows of the input ``text``, where there is one.
        half: weights are stored in float16; arithmetic stays in float32.

    Returns:
        What ``model.json`` says about it: parts that XNNPACK runs, and operators outside of them.

    Raises:
        InputError: the network has an operator that litert-torch does not know.
    """
    inputs = example_inputs(graph, *size, batch=1, names=names or 3)
    named = dict(zip((IMAGE, TEXT), inputs, strict=False))
    with _silent():
        _convert(graph, named).export(str(file))
        if half:
            file.write_bytes(_with_half_weights(file))
        return delegated_facts(_operators(file))


def _convert(graph: ExportGraph, inputs: dict[str, Tensor]) -> Any:
    """The model of litert-torch; examples by the names of inputs."""
    import litert_torch

    try:
        with torch.no_grad(), low_rank_windows():
            return litert_torch.convert(NamedGraph(graph).eval(), sample_kwargs=inputs)
    except RuntimeError as error:
        head, found, rest = str(error).partition(_UNKNOWN)
        if head or not found:
            raise
        raise InputError(
            f"{graph.network.config.name}: litert-torch does not take {rest.split()[0]};"
            " mobius-seg lint-export --target litert says where it is"
        ) from error


def _with_half_weights(file: Path) -> bytes:
    """The same file with float16 weights, each followed by an operator that makes it float32."""
    from ai_edge_quantizer import qtyping, quantizer

    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    recipe: Any = quantizer.Quantizer(str(file))
    recipe.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=weights,
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key="float_casting",
    )
    return bytes(recipe.quantize().quantized_model)


def _operators(file: Path) -> list[dict[str, Any]]:
    """Operators of a file after XNNPACK took its own: those taken are still listed."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_path=str(file), num_threads=1)
    interpreter.allocate_tensors()
    return list(interpreter._get_ops_details())


def delegated_facts(operators: list[dict[str, Any]]) -> dict[str, Any]:
    """How a graph is divided.

    Args:
        operators: of the interpreter, each with ``index``, ``op_name`` and the tensors that are its
            ``inputs`` and ``outputs``; a delegate's are those of all operators it took.

    Returns:
        ``xnnpack_parts``, and ``builtin_operators`` by count: what XNNPACK does not run.
    """
    plain = [one for one in operators if one["op_name"] != DELEGATE]
    makers = {int(tensor): one for one in plain for tensor in one["outputs"]}
    parts = [one for one in operators if one["op_name"] == DELEGATE]
    taken: set[int] = set()
    for part in parts:
        # What a part took lies between its outputs and its inputs.
        given = {int(tensor) for tensor in part["inputs"]}
        todo = [int(tensor) for tensor in part["outputs"]]
        while todo:
            tensor = todo.pop()
            maker = makers.get(tensor)
            if tensor in given or maker is None or maker["index"] in taken:
                continue
            taken.add(maker["index"])
            todo += [int(source) for source in maker["inputs"]]
    outside: dict[str, int] = {}
    for one in plain:
        if one["index"] not in taken:
            outside[one["op_name"]] = outside.get(one["op_name"], 0) + 1
    return {"xnnpack_parts": len(parts), "builtin_operators": dict(sorted(outside.items()))}


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what the converter's Python prints and logs; that of its C++ still shows."""
    with (
        quiet("litert_torch", "torchao", "torch.utils._pytree", "absl", ""),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield
