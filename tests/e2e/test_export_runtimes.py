"""``mobius-seg export`` for phones, in int8 and in segments: written, run again, compared."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.cli import main
from mobius_seg.errors import InputError
from mobius_seg.export import open_exported
from mobius_seg.export.chain import CHAIN, ChainSession, open_chain
from mobius_seg.export.chain_parity import chain_cases
from mobius_seg.export.graph import ExportGraph
from mobius_seg.export.report import measure_parity
from mobius_seg.export.request import ExportRequest, open_source
from mobius_seg.export.spec import SPEC_FILE, ExportSpec
from mobius_seg.export.write import export_model
from mobius_seg.prompts import Prompt, build_batch
from mobius_seg.pruning import PruningPolicy
from mobius_seg.text import default_encoder

for _package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(_package, reason=f"{_package} is not installed (extra export)")

Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of noise to calibrate with."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for i in range(4):
        pixels = generator.integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_a_phone_says_what_the_network_says(tmp_path: Path, photo: NDArray[np.uint8]) -> None:
    pytest.importorskip("executorch", reason="executorch is not installed (extra executorch)")
    out = tmp_path / "phone"
    options = ["--format", "executorch", "--names", "cup,spoon", "--operating-point", "fast"]
    assert main(["export", "--model", "mobius-test", *options, "--out", str(out)]) == 0
    values = json.loads((out / SPEC_FILE).read_text())
    assert values["file"] == "model.pte"
    assert values["batch"] == 1
    assert values["inputs"] == {"image": [1, 3, 64, 64]}
    rows = json.loads((out / "parity.json").read_text())["cases"]["baked"]
    assert [row["batch"] for row in rows] == [1, 4]
    assert all(row["mask_iou"] > 0.999 and row["score"] < 1e-3 for row in rows)
    found = open_exported(out, threads=1).predict([photo, photo[::-1].copy()], threshold=0.0)
    assert [entry.image_size for entry in found] == [(48, 80), (48, 80)]


def test_litert_says_what_the_network_says(tmp_path: Path, photo: NDArray[np.uint8]) -> None:
    pytest.importorskip("litert_torch", reason="litert-torch is not installed (extra litert)")
    out = tmp_path / "phone"
    options = ["--format", "litert", "--names", "cup,spoon", "--operating-point", "fast"]
    assert main(["export", "--model", "mobius-test", *options, "--out", str(out)]) == 0
    values = json.loads((out / SPEC_FILE).read_text())
    assert values["file"] == "model.tflite"
    assert values["batch"] == 1
    assert values["inputs"] == {"image": [1, 3, 64, 64]}
    facts = values["facts"]["model.tflite"]
    assert facts["xnnpack_parts"] >= 1
    assert facts["builtin_operators"]["TOPK_V2"] == 1  # the ranking; XNNPACK has none
    assert "CONV_2D" not in facts["builtin_operators"]
    rows = json.loads((out / "parity.json").read_text())["cases"]["baked"]
    assert [row["batch"] for row in rows] == [1, 4]
    assert all(row["mask_iou"] > 0.999 and row["score"] < 1e-4 for row in rows)
    found = open_exported(out, threads=1).predict([photo, photo[::-1].copy()], threshold=0.0)
    assert [entry.image_size for entry in found] == [(48, 80), (48, 80)]
    (out / "model.tflite").write_bytes(b"no model")
    with pytest.raises(InputError, match="LiteRT cannot open it"):
        open_exported(out).run(np.zeros((1, 3, 64, 64), np.float32))


def test_litert_takes_names_as_an_input_and_float16_weights(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="litert-torch is not installed (extra litert)")
    request = ExportRequest(
        model="mobius-test", out=tmp_path, runtime="litert", operating_point="fast",
        precision="fp16", names_count=8, text_files=False,
    )  # fmt: skip
    spec, graphs = export_model(request, open_source("mobius-test"))
    assert spec.main.inputs == {"image": [1, 3, 64, 64], "text": [8, 384]}
    weights = sum(value.numel() for value in graphs["dynamic"].state_dict().values())
    assert (tmp_path / "model.tflite").stat().st_size < 4 * weights
    (rows,) = measure_parity(tmp_path, spec, graphs, threads=1)["cases"].values()
    assert {row["names"] for row in rows} == {1, 5}
    assert all(row["mask_iou"] > 0.98 and 0 < row["score"] < 1e-2 for row in rows)
    with pytest.raises(InputError, match=r"9 names are .* 8 at most"):
        open_exported(tmp_path).run(np.zeros((1, 3, 64, 64), "f"), np.ones((9, 384), "f"))


def test_litert_samples_maps_and_takes_backbones_of_accelerators(tmp_path: Path) -> None:
    litert = pytest.importorskip("litert_torch", reason="litert-torch is not installed")
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.rand(1, 4, 8, 8, generator=generator) for _ in range(2))
    wanted = _OfAccelerators()(*inputs)
    found = litert.convert(_OfAccelerators().eval(), inputs)(*inputs)
    for ours, theirs in zip(wanted, found, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), rtol=0, atol=2e-6)


class _OfAccelerators(nn.Module):
    """What the lint lets through for LiteRT beyond what phones' presets are made of."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        grid = 2.4 * y[:, :2].permute(0, 2, 3, 1) - 1.2  # some points lie outside
        sampled = F.grid_sample(x, grid, align_corners=False)
        acted = F.gelu(x) + F.silu(y) + torch.erf(x) + torch.tanh(y)
        moved = torch.roll(x, (2, 3), (2, 3)).flip(2)[:, torch.tensor([2, 0])]
        normed = F.group_norm(F.adaptive_avg_pool2d(x, 4), 2)
        rounded = (8 * x).floor() + (8 * y).ceil().remainder(3.0) + (8 * x).fmod(3.0).round()
        return sampled, acted, moved, normed, rounded, F.unfold(y, 2)


@pytest.mark.parametrize(
    ("format_", "package"),
    [("executorch", "executorch"), ("litert", "litert_torch"), ("litert", "ai_edge_litert")],
)
def test_a_missing_package_names_its_extra(
    format_: str, package: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    needed = ("executorch", "litert_torch", "ai_edge_litert", "ai_edge_quantizer")

    def find(name: str) -> object:
        return None if name == package else real("json" if name in needed else name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    options = ["--format", format_, "--names", "cup", "--out", str(tmp_path / "out")]
    assert main(["export", "--model", "mobius-test", *options]) == 2
    error = capsys.readouterr().err.replace("\n", " ")
    assert f"{package} is not installed" in error
    assert f"mobius-seg[{format_}]" in error


@pytest.mark.long
def test_segments_are_chained(tmp_path: Path, photo: NDArray[np.uint8]) -> None:
    out = tmp_path / "chain"
    options = ["--segments", "--names", "cup,spoon", "--operating-point", "full"]
    assert main(["export", "--model", "mobius-test", *options, "--out", str(out)]) == 0
    values = json.loads((out / SPEC_FILE).read_text())
    assert values["facts"][CHAIN]["layers"] == ["layer_1.onnx", "layer_2.onnx"]
    assert not (out / "model.onnx").exists()
    report = json.loads((out / "parity.json").read_text())
    assert report["passed"]
    assert all(row["receipt"] and row["score"] < 1e-4 for row in report["cases"]["baked"])
    found = open_exported(out, threads=1).predict(photo, names=["spoon"], threshold=0.0)
    assert set(found.names) <= {"spoon"}
    assert found.receipt is not None
    assert list(found.receipt.queries) == values["schedule"]["queries"]
    _one_query_goes_on(open_chain(out, ExportSpec.read(out), 1))
    # A plain export into the same folder leaves no segment behind.
    again = ["export", "--model", "mobius-test", "--names", "cup", "--no-parity"]
    assert main([*again, "--out", str(out)]) == 0
    assert not [*out.glob("layer_*.onnx"), *out.glob("encode.onnx"), *out.glob("masks.onnx")]


def _one_query_goes_on(session: ChainSession) -> None:
    """The layers run with a single query, which no example of the exporter had."""
    session.policy = PruningPolicy(thresholds=(0.0, 1.0), floors=((2.0, 2.0),))
    prompt = build_batch([Prompt(names=("cup", "spoon"))], default_encoder())
    graph = ExportGraph(open_source("mobius-test").network, PruningPolicy(), prompt)
    images_B3HW = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    for row in chain_cases(graph, session, images_B3HW, None):
        assert row["queries"] == [12, 1, 1]
        assert row["receipt"]
        assert row["score"] < 1e-4
        assert row["mask_iou"] > 0.99


def test_segments_take_names_as_an_input(tmp_path: Path) -> None:
    request = ExportRequest(
        model="mobius-test", out=tmp_path, segments=True, operating_point="fast", text_files=False
    )
    spec, graphs = export_model(request, open_source("mobius-test"))
    report = measure_parity(tmp_path, spec, graphs, threads=1)
    assert report["passed"]
    assert {row["names"] for row in report["cases"]["dynamic"]} == {5, 80}
    assert all(row["score"] < 1e-4 for row in report["cases"]["dynamic"])
    with pytest.raises(InputError, match="one a call"):
        open_exported(tmp_path).run(np.zeros((2, 3, 64, 64), "f"), np.ones((1, 384), "f"))


def test_segments_have_no_ap(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "none.json").write_text('{"images": [], "annotations": [], "categories": []}')
    options = ["--segments", "--names", "cup", "--out", str(tmp_path / "out")]
    parity = ["--parity-annotations", str(tmp_path / "none.json"), "--parity-images", str(tmp_path)]
    assert main(["export", "--model", "mobius-test", *options, *parity]) == 2
    assert "picture by picture" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_int8(tmp_path: Path, pictures: Path) -> None:
    from onnx import TensorProto, load

    out = tmp_path / "int8"
    options = ["--names", "cup", "--precision", "int8", "--calibration-images", str(pictures)]
    assert main(["export", "--model", "mobius-test", *options, "--out", str(out)]) == 0
    graph = load(out / "model.onnx").graph
    kinds = {tensor.data_type for tensor in graph.initializer}
    assert TensorProto.INT8 in kinds
    report = json.loads((out / "quantization.json").read_text())["model.onnx"]
    assert report["pictures"] == 4
    paths = {row["path"] for row in (*report["layers"], *report["kept_in_float32"])}
    assert "backbone.body.conv_stem" in paths
    assert any(path.startswith("decoder.layers.0") for path in paths)
    assert not any("heads" in path or "box_bias" in path for path in paths)
    assert any("heads" in path for path in report["always_float32"]["layers"])
    rows = json.loads((out / "parity.json").read_text())["cases"]["baked"]
    assert all(row["mask_iou"] > 0.5 and 0 < row["score"] < 0.2 for row in rows)
