"""``mobius-seg export``: folders that other runtimes run and that say what the network says."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mobius_seg.checkpoint import load_model, save_model
from mobius_seg.cli import main
from mobius_seg.export import open_exported
from mobius_seg.export.graph import ExportGraph, example_inputs
from mobius_seg.export.onnx_file import write_onnx
from mobius_seg.export.spec import OUTPUTS, SPEC_FILE, ExportSpec
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.pruning import PruningPolicy

for _package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(_package, reason=f"{_package} is not installed (extra export)")

Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fixed names and names as an input, under the package's static schedule."""
    out = tmp_path_factory.mktemp("export") / "both"
    names = ["--names", "cup, spoon", "--dynamic-names", "--operating-point", "balanced"]
    assert main(["export", "--model", "mobius-test", *names, "--out", str(out)]) == 0
    return out


def test_the_folder_is_complete(both: Path) -> None:
    import onnx

    wanted = {"model.onnx", "model_dynamic.onnx", SPEC_FILE, "parity.json"}
    assert {path.name for path in both.iterdir()} == wanted | {
        "text_encoder.onnx",
        "tokenizer.json",
    }
    values = json.loads((both / SPEC_FILE).read_text())
    assert values["names"] == ["cup", "spoon"]
    assert values["inputs"] == {"image": ["batch", 3, 64, 64]}
    queries = values["schedule"]["queries"]
    assert values["outputs"]["masks"] == ["batch", queries[-1], 16, 16]
    assert queries[-1] < 12
    assert values["weights"]["sha256"] is None
    for file in ("model.onnx", "model_dynamic.onnx"):
        model = onnx.load(both / file)
        assert [output.name for output in model.graph.output] == list(OUTPUTS)
        facts = {entry.key: entry.value for entry in model.metadata_props}
        assert facts["model"] == "mobius-test"
        assert facts["operating_point"] == "balanced"
        assert not [node for node in model.graph.node if node.domain not in ("", "ai.onnx")]
    assert not list(both.glob(".export-*"))


def test_the_graphs_say_what_the_network_says(both: Path) -> None:
    report = json.loads((both / "parity.json").read_text())
    assert report["passed"]
    assert [(row["names"], row["batch"]) for row in report["cases"]["baked"]] == [(2, 1), (2, 4)]
    assert [row["names"] for row in report["cases"]["dynamic"]] == [1, 5, 80, 1203] * 2
    for row in (*report["cases"]["baked"], *report["cases"]["dynamic"]):
        assert row["mask_iou"] > 0.999
        assert row["score"] < 1e-4
        assert row["classes"] == 1.0
    assert report["ap"]["reason"].startswith("no annotations")


def test_names_become_vectors_without_the_package(both: Path) -> None:
    from mobius_seg.export.text_graph import encode_names
    from mobius_seg.text import MiniLMEncoder

    names = ["cat", "a rather long name of a thing", "häuser", "x" * 2000]
    found = encode_names(both, names)
    np.testing.assert_allclose(found, MiniLMEncoder().encode(names).pooled_KD.numpy(), atol=1e-5)


def test_segment_takes_the_folder(
    both: Path, tmp_path: Path, photo: NDArray[np.uint8], capsys: Capture
) -> None:
    picture = tmp_path / "photo.png"
    Image.fromarray(photo).save(picture)
    out = ["--model", str(both), "--out", str(tmp_path / "out")]
    rest = ["--threshold", "0", "--max-instances", "3", *out]
    assert main(["segment", str(picture), "--names", "spoon", *rest]) == 0
    found = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert {entry["name"] for entry in found["instances"]} <= {"spoon"}
    assert main(["segment", str(picture), "--names", "dog", *rest]) == 0
    capsys.readouterr()
    for more, words in (
        (["--expression", "the cup"], "exported graphs answer names"),
        (["--names", "cup", "--budget", "1layer"], "one schedule"),
        (["--names", "cup", "--size", "96"], "takes 64x64 alone"),
        (["--names", "cup", "--recognise"], "exported graphs do not recognise"),
        (["--names", "cup", "--device", "cuda"], "run on cpu"),
    ):
        assert main(["segment", str(picture), *more, *rest]) == 2
        assert words in capsys.readouterr().err


def test_half_precision(tmp_path: Path, capsys: Capture) -> None:
    from onnx import TensorProto, load

    out = tmp_path / "half"
    options = ["--names", "cup", "--precision", "fp16", "--out", str(out)]
    assert main(["export", "--model", "mobius-test", *options]) == 0
    graph = load(out / "model.onnx").graph
    ends = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    assert set(ends) == {TensorProto.FLOAT}
    halves = sum(len(t.raw_data) for t in graph.initializer if t.data_type == TensorProto.FLOAT16)
    assert halves > 0.8 * sum(len(t.raw_data) for t in graph.initializer)
    rows = json.loads((out / "parity.json").read_text())["cases"]["baked"]
    assert all(row["score"] < 0.01 and row["mask_iou"] > 0.95 for row in rows)


def test_openvino_and_any_size(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed (extra openvino)")
    from mobius_seg.export.parity import compare
    from mobius_seg.export.request import ExportRequest, open_source
    from mobius_seg.export.session_torch import TorchSession
    from mobius_seg.export.write import export_model

    request = ExportRequest(
        model="mobius-test",
        out=tmp_path / "ov",
        runtime="openvino",
        dynamic_size=True,
        operating_point="fast",
    )
    spec, graphs = export_model(request, open_source("mobius-test"))
    assert ExportSpec.read(request.out) == spec
    model = open_exported(request.out, threads=1)
    reference = TorchSession(graphs["dynamic"])
    generator = np.random.default_rng(0)
    for batch, height, width, names in ((1, 64, 64, 1), (3, 96, 160, 7)):
        image = generator.random((batch, 3, height, width), np.float32)
        text = torch.nn.functional.normalize(
            torch.from_numpy(generator.standard_normal((names, 384), np.float32)), dim=-1
        ).numpy()
        found = model.run(image, text)
        figures = compare(reference.run(image, text), found)
        assert figures["mask_iou"] > 0.99
        assert figures["score"] < 1e-3
        assert found["masks"].shape[2:] == (height // 4, width // 4)


def test_a_missed_bar_is_exit_code_one_after_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("mobius_seg.export.parity.MASK_IOU_BAR", 1.1)
    save_model(load_model("mobius-test", random_weights=True), tmp_path / "model")
    out = ["--out", str(tmp_path / "out")]
    options = ["--model", str(tmp_path / "model"), "--everything", *out]
    assert main(["export", *options]) == 1
    assert "MISSED" in capsys.readouterr().out
    assert not json.loads((tmp_path / "out" / "parity.json").read_text())["passed"]
    assert open_exported(tmp_path / "out").spec.main.vocabulary == "everything"


def test_the_form_of_accelerators(tmp_path: Path) -> None:
    """Deformable reading, relative boxes, candidates: what no shipped weights have yet."""
    config = dataclasses.replace(
        get_preset("mobius-test"),
        cross_attention="deformable",
        memory_strides=(16, 32),
        box_steps="relative",
        mask_conv=16,
        candidates=16,
    )
    torch.manual_seed(0)
    graph = ExportGraph(Mobius(config).eval(), PruningPolicy.static((12, 6), 2), None)
    write_onnx(graph, tmp_path / "model.onnx", (64, 96))
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    image, text = example_inputs(graph, 64, 96, batch=3, names=5)
    found = session.run(None, {"image": image.numpy(), "text": text.numpy()})
    with torch.no_grad():
        wanted = graph(image, text)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-4, rtol=1e-3)
