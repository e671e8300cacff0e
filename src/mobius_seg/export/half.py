"""Half precision for an ONNX graph, where half is enough.

The backbone, the pixel decoder and the decoder layers run in float16, and their weights are stored
so. Everything that decides stays float32: vectors are normalised and compared with names, scores
are mixed and ranked, boxes refined, positions encoded and masks multiplied there. A float16 step is
0.016 at a logit of 20, a square above 256 overflows, and an epsilon of 1e-12 is zero.
"""

from collections import defaultdict
from typing import Any

import numpy as np

from mobius_seg.errors import InputError

SCOPE_KEY = "pkg.torch.onnx.name_scopes"
"""Metadata property in which torch's exporter names the modules that a node comes from."""
_OPERATORS = (
    "Add AveragePool BatchNormalization Clip Concat Conv ConvTranspose Div Erf Expand Gather Gelu"
    " Gemm GridSample GroupNormalization HardSigmoid HardSwish InstanceNormalization"
    " LayerNormalization MatMul MaxPool Mul Neg Pad Relu Reshape Resize Sigmoid Slice Softmax Split"
    " Sqrt Squeeze Sub Tanh Transpose Unsqueeze"
)
HALF_OPERATORS = frozenset(_OPERATORS.split())
HALF_SCOPES = ("backbone", "pixel_decoder", "name_map", "decoder.memory", "decoder.layers")
FULL_PARTS = ("box_bias",)
"""Modules inside of these that stay float32: distances, their logarithms."""
_FLOAT, _HALF = 1, 10
_LARGEST = 65504.0


def to_half(model: Any) -> Any:
    """The same model with float16 where the module's text says, inputs and outputs float32.

    Args:
        model: an ``onnx.ModelProto`` of the dynamo exporter, its scopes in the nodes' metadata.

    Returns:
        The model, changed in place.

    Raises:
        InputError: a weight does not fit into float16.
    """
    import onnx

    kinds = _kinds(onnx.shape_inference.infer_shapes(model, data_prop=True).graph)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    chosen = [is_half(node) for node in graph.node]
    made_half = {
        name
        for node, half in zip(graph.node, chosen, strict=True)
        if half
        for name in node.output
        if kinds.get(name) == _FLOAT
    }
    readers = _readers(graph, chosen)
    nodes: list[Any] = []
    casts: dict[tuple[str, int], str] = {}

    def cast(name: str, to: int) -> str:
        """The value in another kind, cast once."""
        if (name, to) not in casts:
            casts[name, to] = f"{name}_as_{'half' if to == _HALF else 'float'}"
            nodes.append(onnx.helper.make_node("Cast", [name], [casts[name, to]], to=to))
        return casts[name, to]

    halved: dict[str, Any] = {}
    for node, half in zip(graph.node, chosen, strict=True):
        for i, name in enumerate(node.input):
            if kinds.get(name) != _FLOAT or _stays(node, i):
                if name in made_half:
                    node.input[i] = cast(name, _FLOAT)
            elif half and name in weights:
                only = readers[name] == {True}
                halved.setdefault(name, _halve(weights[name], only))
                node.input[i] = halved[name].name
            elif half and name not in made_half:
                node.input[i] = cast(name, _HALF)
            elif not half and name in made_half:
                node.input[i] = cast(name, _FLOAT)
        nodes.append(node)
    assert not made_half & {value.name for value in graph.output}, "outputs are float32"
    _finish(graph, nodes, weights, halved)
    del graph.value_info[:]
    return model


def is_half(node: Any) -> bool:
    """Whether a node's arithmetic is in float16."""
    scopes = next((p.value for p in node.metadata_props if p.key == SCOPE_KEY), "")
    path = scopes.replace("'", "").replace('"', "")
    inside = any(f"network.{scope}" in path for scope in HALF_SCOPES)
    return (
        inside and node.op_type in HALF_OPERATORS and not any(part in path for part in FULL_PARTS)
    )


def _stays(node: Any, position: int) -> bool:
    """Inputs that an operator takes in float32 whatever the others are: scales of Resize."""
    return node.op_type == "Resize" and position in (1, 2)


def _kinds(graph: Any) -> dict[str, int]:
    """Element type of every value."""
    values = [*graph.value_info, *graph.input, *graph.output]
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    return kinds | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _readers(graph: Any, chosen: list[bool]) -> dict[str, set[bool]]:
    """For each value, whether nodes in float16 and in float32 read it."""
    readers: dict[str, set[bool]] = defaultdict(set)
    for node, half in zip(graph.node, chosen, strict=True):
        for i, name in enumerate(node.input):
            readers[name].add(half and not _stays(node, i))
    return readers


def _halve(tensor: Any, only: bool) -> Any:
    """A weight in float16, under its own name where nothing else reads it."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if largest > _LARGEST:
        raise InputError(
            f"weight {tensor.name} reaches {largest:g}, beyond float16; export with fp32"
        )
    name = tensor.name if only else f"{tensor.name}_as_half"
    return numpy_helper.from_array(values.astype(np.float16), name)


def _finish(graph: Any, nodes: list[Any], weights: dict[str, Any], halved: dict[str, Any]) -> None:
    """Put nodes and weights back."""
    replaced = {name for name, tensor in halved.items() if tensor.name == name}
    kept = [tensor for name, tensor in weights.items() if name not in replaced]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend([*kept, *halved.values()])
