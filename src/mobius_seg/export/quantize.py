"""Static int8 for an ONNX graph: QDQ form, a scale for each channel of a weight.

Convolutions and linear layers of the backbone, the pixel decoder, the name map and the decoder
layers compute in int8; what lies between two convolutions goes with them. All heads, the ranking,
box refinement, position encodings, attention (products and softmax), norms and mask products stay
in float32, as do linear layers' results. Ranges are the extremes over the calibration pictures.

A layer that adds much noise of its own goes back to float32; ``quantization.json`` says which and
why. Noise is measured as the signal-to-quantisation-noise ratio (SQNR) of a layer's result against
the float32 graph, 10 log10(sum x^2 / sum (x - y)^2) over all values of a few pictures.
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobius_seg.export.half import FULL_PARTS, HALF_SCOPES, SCOPE_KEY
from mobius_seg.export.onnx_file import quiet
from mobius_seg.export.session import Array

PROBES = 8
"""Pictures that the noise is measured on, the first of the calibration set."""
LEAST_DB, MOST_LOST_DB = 12.0, 6.0
"""A layer goes back to float32 where its result has less than the first and the layer itself has
lost more than the second."""
_AT_ONCE = 32  # values of each graph that are held while they are compared
_LAYERS = ("Conv", "MatMul", "Gemm")
_BETWEEN = ("Add", "Relu", "Clip", "MaxPool", "Resize")  # pooling in int8 is slower
_ROUNDED = "_DequantizeLinear_Output"
"""Suffix of a value that was rounded, as the quantiser names it."""
_HEADS = ("pixel_decoder.mask_features",)
"""Modules inside of the quantised ones whose result is an answer."""

Feed = dict[str, Array]


def to_int8(model: Any, feeds: Sequence[Feed]) -> tuple[Any, dict[str, Any]]:
    """The same model in int8 where the module's text says, inputs and outputs float32.

    Args:
        model: an ``onnx.ModelProto`` of the dynamo exporter, its scopes in the nodes' metadata.
        feeds: the model's inputs for each calibration picture.

    Returns:
        The new model, and what ``quantization.json`` says about it.
    """
    import onnx

    shapes = _ranks(onnx.shape_inference.infer_shapes(model, data_prop=True).graph)
    layers = {node.name: layer_path(node) for node in model.graph.node if _is_layer(node, model)}
    between = [node.name for node in model.graph.node if _is_between(node, shapes)]
    paths = {name: path for name, path in layers.items() if quantised_path(path)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = _quantise(model, feeds, [*paths, *between], folder)
        rows = measure_layers(model, first, paths, feeds[:PROBES])
        kept = {row["node"]: _reason(row) for row in rows if _is_lossy(row)}
        result = first
        if kept:
            nodes = [node for node in (*paths, *between) if node not in kept]
            result = _quantise(model, feeds, nodes, folder)
        final = {row["node"]: row for row in measure_layers(model, result, paths, feeds[:PROBES])}
    quantised = [final[row["node"]] for row in rows if row["node"] not in kept]
    always = sorted({path for path in layers.values() if not quantised_path(path)})
    return result, {
        "pictures": len(feeds),
        "probes": min(PROBES, len(feeds)),
        "form": "QDQ, uint8 activations, int8 weights by channel, ranges from minimum and maximum",
        "layers": quantised,
        "kept_in_float32": [
            {**row, "why": kept[row["node"]]} for row in rows if row["node"] in kept
        ],
        "always_float32": {
            "why": "heads, ranking, boxes, positions, masks: what decides stays in float32",
            "layers": always,
        },
    }


def layer_path(node: Any) -> str:
    """Path of the innermost module that a node comes from, without the wrapper's own."""
    weight = node.input[1] if len(node.input) > 1 else ""
    if node.op_type == "Conv" and weight.startswith("network.") and weight.endswith(".weight"):
        return str(weight).removeprefix("network.").removesuffix(".weight")
    scopes = next((p.value for p in node.metadata_props if p.key == SCOPE_KEY), "")
    parts = [part.strip(" '\"[]") for part in scopes.split(",")]
    paths = [part for part in parts if part.startswith("network.")]
    return paths[-1].removeprefix("network.") if paths else ""


def quantised_path(path: str) -> bool:
    """Whether a module's layers compute in int8."""
    if any(path == head or path.startswith(f"{head}.") for head in _HEADS):
        return False
    inside = any(path == scope or path.startswith(f"{scope}.") for scope in HALF_SCOPES)
    return inside and not any(part in path for part in FULL_PARTS)


def measure_layers(
    model: Any, quantised: Any, paths: dict[str, str], feeds: Sequence[Feed]
) -> list[dict[str, Any]]:
    """Noise of each layer.

    Args:
        model: in float32.
        quantised: the same in int8.
        paths: module of each layer, by the name of its node.
        feeds: inputs to measure on.

    Returns:
        A row a layer in the graph's order: ``node``, ``path``, ``operator``, ``sqnr_db`` of its
        result and ``input_sqnr_db`` of what it reads, both None where the graphs have no such value
        in common.
    """
    nodes = [node for node in model.graph.node if node.name in paths]
    removed, there = _removed_activations(model, quantised), _made(quantised)
    ends: dict[str, list[tuple[str, str]]] = {}
    for node in nodes:
        read, result = node.input[0], removed.get(node.output[0], node.output[0])
        rounded = [f"{name}{_ROUNDED}" for name in (read, result)]
        # What is read counts before it is rounded for this layer; the result of a Relu or Clip that
        # the rounding stands for exists behind it alone.
        before = rounded[0] if read in removed.values() else read
        after = rounded[1] if rounded[1] in there else result
        ends[node.name] = [(read, before), (result, after)]
    pairs = {pair for both in ends.values() for pair in both}
    wanted = sorted((x, y) for x, y in pairs if x in _made(model) and y in there)
    ratios = _ratios(model, quantised, wanted, feeds)
    return [
        {
            "node": node.name,
            "path": paths[node.name],
            "operator": node.op_type,
            "input_sqnr_db": ratios.get(ends[node.name][0]),
            "sqnr_db": ratios.get(ends[node.name][1]),
        }
        for node in nodes
    ]


def _quantise(model: Any, feeds: Sequence[Feed], nodes: list[str], folder: Path) -> Any:
    """These nodes in int8; the folder is for the quantiser's files."""
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """The feeds, one after the other."""

        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> Feed | None:
            """The next one."""
            return next(self._feeds, None)

    whole, file = folder / "float32.onnx", folder / "int8.onnx"
    onnx.save(model, str(whole))  # given the model itself, it would move its weights out of it
    with quiet(""):  # the quantiser speaks through the root logger
        quantization.quantize_static(
            whole,
            file,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=[*_LAYERS, *_BETWEEN],
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={
                "MatMulConstBOnly": True,
                "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
            },
        )
    quantised = onnx.load(str(file))
    _spare_others(quantised, set(nodes))
    return quantised


def _spare_others(model: Any, nodes: set[str]) -> None:
    """What float32 made and float32 reads is not rounded because an int8 layer reads it too."""
    maker = {output: node.name for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.name in nodes or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for i, name in enumerate(node.input):
            exact = name.removesuffix(_ROUNDED)
            if name != exact and maker.get(exact, "") not in ({""} | nodes):
                node.input[i] = exact


def _is_layer(node: Any, model: Any) -> bool:
    """Whether a node has a weight to quantise."""
    if node.op_type not in _LAYERS:
        return False
    return any(tensor.name == node.input[1] for tensor in model.graph.initializer)


def _is_between(node: Any, ranks: dict[str, int]) -> bool:
    """Whether a node lies between convolutions of quantised modules: a map goes in and out.

    Decoder layers have no convolutions: what has four axes there is the scores of an attention.
    """
    values = (node.input[0] if node.input else "", node.output[0])
    maps, path = all(ranks.get(name) == 4 for name in values), layer_path(node)
    return (
        node.op_type in _BETWEEN
        and maps
        and quantised_path(path)
        and not path.startswith("decoder.")
    )


def _ranks(graph: Any) -> dict[str, int]:
    """Rank of every value whose shape is known."""
    values = [*graph.value_info, *graph.input, *graph.output]
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values}


def _removed_activations(model: Any, quantised: Any) -> dict[str, str]:
    """Results of Relu and Clip nodes that a range stands for, by what they read."""
    left = {node.name for node in quantised.graph.node}
    return {
        node.input[0]: node.output[0]
        for node in model.graph.node
        if node.op_type in ("Relu", "Clip") and node.name not in left
    }


def _made(model: Any) -> set[str]:
    """Values that nodes make."""
    return {name for node in model.graph.node for name in node.output}


def _ratios(
    model: Any, quantised: Any, pairs: list[tuple[str, str]], feeds: Sequence[Feed]
) -> dict[tuple[str, str], float | None]:
    """SQNR in decibels of pairs of values; None where there is no noise or no signal."""
    parts = [pairs[start : start + _AT_ONCE] for start in range(0, len(pairs), _AT_ONCE)]
    return {
        pair: ratio
        for part in parts
        for pair, ratio in _ratios_at_once(model, quantised, part, feeds).items()
    }


def _ratios_at_once(
    model: Any, quantised: Any, pairs: list[tuple[str, str]], feeds: Sequence[Feed]
) -> dict[tuple[str, str], float | None]:
    """The same, with every value of both graphs in memory."""
    names = [sorted({pair[side] for pair in pairs}) for side in range(2)]
    sides = [_session_with(*side) for side in zip((model, quantised), names, strict=True)]
    signal, noise = dict.fromkeys(pairs, 0.0), dict.fromkeys(pairs, 0.0)
    for feed in feeds:
        ours, theirs = (
            dict(zip(wanted, session.run(wanted, feed), strict=True))
            for wanted, session in zip(names, sides, strict=True)
        )
        for pair in pairs:
            x, y = ours[pair[0]], theirs[pair[1]]
            signal[pair] += float(np.square(x, dtype=np.float64).sum())
            noise[pair] += float(np.square(np.subtract(x, y, dtype=np.float64)).sum())
    return {
        pair: round(10 * math.log10(signal[pair] / noise[pair]), 2)
        if signal[pair] > 0 and noise[pair] > 0
        else None
        for pair in pairs
    }


def _session_with(model: Any, names: list[str]) -> Any:
    """A session whose outputs are values inside the graph, computed as they are written."""
    import onnx
    import onnxruntime

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    there = {value.name for value in probed.graph.output}
    made = [onnx.ValueInfoProto(name=name) for name in names if name not in there]
    probed.graph.output.extend(made)
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _is_lossy(row: dict[str, Any]) -> bool:
    """Whether a layer goes back to float32."""
    result, before = row["sqnr_db"], row["input_sqnr_db"]
    if result is None or result >= LEAST_DB:
        return False
    return before is None or before - result > MOST_LOST_DB


def _reason(row: dict[str, Any]) -> str:
    """Why a layer went back."""
    before = "exact" if row["input_sqnr_db"] is None else f"{row['input_sqnr_db']:.1f} dB"
    return (
        f"in int8 its result has {row['sqnr_db']:.1f} dB (below {LEAST_DB:g}), its input {before}"
    )
