"""The lint lets phone presets through and names what others hold."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobius_seg.cli import main
from mobius_seg.config import ModelConfig
from mobius_seg.export.lint import Finding, lint_model, walk
from mobius_seg.export.lint_targets import DTYPES, OPERATORS
from mobius_seg.presets import PRESETS, get_preset

Capture = pytest.CaptureFixture[str]
PHONE = ("mobius-p", "mobius-n", "mobius-s")
BIG = tuple(name for name in PRESETS if name not in (*PHONE, "mobius-test"))


class _Refused(nn.Module):
    """Everything that no phone takes, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _Sampled()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten().nonzero()
        return self.inner(x).sum() + rows.sum() + x.double().sum()


class _Sampled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        high = x[None, None] * 2
        grid = torch.stack([x[:, 0], x[:, 0]], -1)
        sampled: Tensor = nn.functional.grid_sample(x, grid, align_corners=False)
        return sampled.sum() + high.sum()


def _findings(target: str) -> list[Finding]:
    program = torch.export.export(_Refused(), (torch.rand(1, 2, 4, 4),), strict=False)
    return list(walk(program.run_decompositions().graph, target)[1])


def test_what_no_phone_takes_is_named_with_its_module() -> None:
    found = {(f.kind, f.what): f for f in _findings("executorch")}
    assert found["operator", "grid_sampler_2d"].modules == ("inner",)
    assert found["rank", "mul.Tensor of rank 6"].count == 1
    assert ("operator", "nonzero") in found
    assert ("shape", "nonzero of a shape that depends on data") in found
    assert ("dtype", "_to_copy of float64") in found
    for target in ("onnx", "litert"):
        kinds = {f.what for f in _findings(target)}
        assert "grid_sampler_2d" not in kinds
        assert "nonzero" in kinds


@pytest.mark.parametrize("target", ["executorch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_the_smallest_preset_passes(target: str) -> None:
    for result in lint_model(get_preset("mobius-test"), target):
        assert result.findings == ()
        assert result.operators["convolution"] > 10
        assert result.operators["topk"] >= 1


def test_what_litert_and_onnx_take_contains_what_the_others_take() -> None:
    """So the lint of these two says what the others' would: they get the same graphs."""
    for smaller, larger in (("executorch", "litert"), ("openvino", "onnx")):
        assert OPERATORS[smaller] <= OPERATORS[larger]
        assert DTYPES[smaller] <= DTYPES[larger]


@pytest.mark.slow
@pytest.mark.parametrize("name", PHONE)
@pytest.mark.parametrize("target", ["executorch", "openvino"])
def test_phone_presets_pass_everywhere(name: str, target: str) -> None:
    vocabulary = "baked" if target == "executorch" else "dynamic"
    for result in lint_model(get_preset(name), target, (128, 128), (vocabulary,)):
        assert result.findings == ()
        assert "grid_sampler_2d" not in result.operators
        assert "index.Tensor" not in result.operators


SMALL_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "mobius-l": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 4, 8)},
    ),
    "mobius-h": ("eva02_tiny_patch14_224", {"depth": 2, "embed_dim": 96}),
}
"""Small backbones of the kinds that large presets have."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["glee-lite", *SMALL_KINDS])
def test_accelerator_presets_pass_onnx(name: str) -> None:
    config = get_preset(name)
    if name in SMALL_KINDS:  # after the backbone they are mobius-m
        backbone, arguments = SMALL_KINDS[name]
        both = config.backbone_args + tuple(arguments.items())
        config = replace(config, backbone=backbone, backbone_args=both, mixing_layers=1)
        config = replace(config, decoder_layers=2)
    _passes_onnx(config)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in BIG if name != "glee-lite"])
def test_large_presets_pass_onnx(name: str) -> None:
    _passes_onnx(get_preset(name))


def _passes_onnx(config: ModelConfig) -> None:
    """One graph each: most of the time goes into decomposing the backbone."""
    vocabulary = "baked" if config.fuse_subwords else "dynamic"
    (result,) = lint_model(config, "onnx", (256, 256), (vocabulary,))
    assert result.findings == ()


@pytest.mark.slow
def test_litert_takes_what_samples() -> None:
    (result,) = lint_model(get_preset("mobius-m"), "litert", (128, 128), ("baked",))
    assert result.findings == ()
    assert "grid_sampler_2d" in result.operators


@pytest.mark.slow
def test_the_command_lists_what_it_finds(capsys: Capture) -> None:
    options = ["--model", "mobius-m", "--size", "128x128", "--target", "executorch"]
    assert main(["lint-export", *options]) == 1
    assert "grid_sampler_2d" in capsys.readouterr().out
    options = ["--model", "mobius-test", "--target", "executorch", "--json"]
    assert main(["lint-export", *options]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["vocabulary"] for result in results] == ["baked", "dynamic"]
    assert all(result["findings"] == [] for result in results)
