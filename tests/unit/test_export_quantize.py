"""Which layers become int8, what the report says of them, and what stays."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mobius_seg.errors import InputError
from mobius_seg.export.calibration_pictures import calibration_feeds
from mobius_seg.export.half import SCOPE_KEY
from mobius_seg.export.quantize import LEAST_DB, layer_path, measure_layers, to_int8

onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra export)")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")


def _model(spread: float = 1.0) -> Any:
    """Two convolutions with a Clip between them, one of a head, a linear layer, an attention."""
    generator = np.random.default_rng(0)
    weights: dict[str, np.ndarray] = {
        "network.backbone.body.stem.weight": generator.standard_normal((8, 3, 3, 3)),
        "network.pixel_decoder.lateral4.0.weight": generator.standard_normal((4, 8, 1, 1)),
        "network.pixel_decoder.mask_features.weight": generator.standard_normal((4, 4, 1, 1)),
        "val_1": generator.standard_normal((4, 4)),
    }
    # One input channel far above the others: its range leaves the rest no steps.
    weights["network.pixel_decoder.lateral4.0.weight"][:, 0] /= spread
    weights["network.backbone.body.stem.weight"][0] *= spread
    steps = {
        "low": np.array(0.0),
        "high": np.array(6.0 * spread),
        "shape": np.array([1, 4, 64], np.int64),
        "scores_shape": np.array([1, 1, 64, 64], np.int64),
    }
    rows = [
        ("Conv", ["image", "network.backbone.body.stem.weight"], "stem", ""),
        ("Clip", ["stem", "low", "high"], "clipped", "network.backbone.body"),
        ("Conv", ["clipped", "network.pixel_decoder.lateral4.0.weight"], "lateral", ""),
        ("Conv", ["lateral", "network.pixel_decoder.mask_features.weight"], "features", ""),
        ("Reshape", ["lateral", "shape"], "flat", "network.pixel_decoder"),
        ("Transpose", ["flat"], "tokens", "network.pixel_decoder"),
        ("MatMul", ["tokens", "val_1"], "linear", "network.decoder.layers.0.feed_forward"),
        ("MatMul", ["linear", "flat"], "attention", "network.decoder.layers.0"),
        ("MatMul", ["tokens", "val_1"], "head", "network.decoder.heads.box"),
        ("Add", ["lateral", "lateral"], "between", "network.pixel_decoder"),
        ("Reshape", ["attention", "scores_shape"], "scores", "network.decoder.layers.0"),
        ("Add", ["scores", "scores"], "biased", "network.decoder.layers.0.box_bias"),
        ("Add", ["scores", "biased"], "summed", "network.decoder.layers.0"),
    ]
    nodes = []
    for i, (kind, inputs, output, scope) in enumerate(rows):
        more = {"perm": [0, 2, 1]} if kind == "Transpose" else {}
        node = onnx.helper.make_node(kind, inputs, [output], name=f"node_{i}", **more)
        node.metadata_props.add(key=SCOPE_KEY, value=repr(["", "network", scope, "aten"]))
        nodes.append(node)
    made = onnx.helper.make_tensor_value_info
    values = [
        onnx.numpy_helper.from_array(v if v.dtype == np.int64 else v.astype(np.float32), name)
        for name, v in {**weights, **steps}.items()
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        [made("image", 1, [1, 3, 10, 10])],
        [
            made("features", 1, [1, 4, 8, 8]),
            made("attention", 1, [1, 64, 64]),
            made("head", 1, None),
            made("between", 1, [1, 4, 8, 8]),
            made("summed", 1, [1, 1, 64, 64]),
        ],
        values,
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
    )


def _feeds(count: int = 4) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(1)
    return [{"image": generator.random((1, 3, 10, 10), np.float32)} for _ in range(count)]


def test_layers_inside_become_int8_and_heads_do_not() -> None:
    model = _model()
    found, report = to_int8(model, _feeds())
    assert [row["path"] for row in report["layers"]] == [
        "backbone.body.stem",
        "pixel_decoder.lateral4.0",
        "decoder.layers.0.feed_forward",
    ]
    assert report["always_float32"]["layers"] == [
        "decoder.heads.box",
        "pixel_decoder.mask_features",
    ]
    assert report["kept_in_float32"] == []
    assert all(row["sqnr_db"] > 20 for row in report["layers"])
    assert report["pictures"] == report["probes"] == 4
    json.dumps(report, allow_nan=False)
    made = {output: node for node in found.graph.node for output in node.output}
    reads_int8 = {
        node.name: any(
            getattr(made.get(name), "op_type", "") == "DequantizeLinear" for name in node.input[:1]
        )
        for node in found.graph.node
        if node.op_type in ("Conv", "MatMul")
    }
    adds = {
        node.name: all(
            getattr(made.get(name), "op_type", "") == "DequantizeLinear" for name in node.input
        )
        for node in found.graph.node
        if node.op_type == "Add"
    }
    assert adds == {"node_9": True, "node_11": False, "node_12": False}
    # The head's convolution reads what the one before it left, and computes in float32.
    assert reads_int8.pop("node_3")
    quantised = {name for name, int8 in reads_int8.items() if int8}
    assert quantised == {"node_0", "node_2", "node_6"}
    weight = next(
        t for t in found.graph.initializer if t.name.startswith("network.pixel_decoder.mask")
    )
    assert weight.data_type == onnx.TensorProto.FLOAT
    scales = [t for t in found.graph.initializer if t.name.endswith("stem.weight_scale")]
    assert [list(t.dims) for t in scales] == [[8]]
    sessions = [
        ort.InferenceSession(side.SerializeToString(), providers=["CPUExecutionProvider"])
        for side in (model, found)
    ]
    ours, theirs = (side.run(["features"], _feeds()[0])[0] for side in sessions)
    assert np.abs(ours - theirs).max() < 0.1 * np.abs(ours).max()
    assert np.abs(ours - theirs).max() > 0


def test_a_layer_that_loses_much_goes_back() -> None:
    model = _model(spread=3000.0)
    _, report = to_int8(model, _feeds())
    (kept,) = report["kept_in_float32"]
    assert kept["path"] == "pixel_decoder.lateral4.0"
    assert kept["sqnr_db"] < LEAST_DB
    assert "below 12" in kept["why"]
    assert "pixel_decoder.lateral4.0" not in [row["path"] for row in report["layers"]]


def test_the_float_graph_against_itself_has_no_noise() -> None:
    model = _model()
    (row,) = measure_layers(model, model, {"node_0": "x"}, _feeds())
    assert row["sqnr_db"] is None


def test_paths_come_from_weights_or_scopes() -> None:
    assert [layer_path(node) for node in _model().graph.node][:4:3] == [
        "backbone.body.stem",
        "pixel_decoder.mask_features",
    ]


def test_calibration_pictures(tmp_path: Path) -> None:
    for i in range(5):
        Image.new("RGB", (40 + i, 20), (i * 40, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("x")
    text = np.ones((2, 384), np.float32)
    feeds = calibration_feeds(tmp_path, 3, (32, 64), text)
    assert [feed["image"].shape for feed in feeds] == [(1, 3, 32, 64)] * 3
    assert [round(float(feed["image"][0, 0, 0, 0]) * 255) for feed in feeds] == [0, 40, 120]
    assert feeds[0]["text"] is text
    assert "text" not in calibration_feeds(tmp_path, 9, (32, 64), None)[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures"):
        calibration_feeds(tmp_path / "empty", 3, (32, 64), None)
