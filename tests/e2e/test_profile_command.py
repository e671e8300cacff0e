"""``mobius-seg profile``: JSON alone, tables, a folder as the model, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mobius_seg.cli import main

SMALL = ["--size", "64x96", "--names", "5"]


def test_size_is_the_models_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--model", "mobius-test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == [64, 64]


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["profile", *arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    values: dict[str, Any] = json.loads(out)
    return values


def test_json_alone_and_against(capsys: pytest.CaptureFixture[str]) -> None:
    values = run_json(capsys, "--model", "mobius-test", "--against", "mobius-test", *SMALL)
    assert values["size"] == [64, 96]
    assert values["params"] > 0
    assert values["gmac"]["total"] == pytest.approx(sum(values["parts"].values()))
    assert values["ratio"]["gmac"]["total"] == values["ratio"]["total"] == 1
    assert values["agreeing_counts"] == ["dispatch", "closed form"]


def test_a_folder_costs_what_its_preset_costs(
    capsys: pytest.CaptureFixture[str], model_folder: Path
) -> None:
    folder = run_json(capsys, "--model", str(model_folder), *SMALL)
    preset = run_json(capsys, "--model", "mobius-test", *SMALL)
    assert folder["parts"] == preset["parts"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mask_conv", 1, "no network of its configuration can run: num_channels (1)"),
        ("backbone_args", [["nonsense", 1]], "no network of its configuration can run"),
        ("backbone_args", [["in_chans", 5]], "no network of its configuration can run"),
        ("pyramid", True, "lies at stride 32; allowed: 16"),
        ("mask_width", 1, "mask_width is 1; allowed: 2 to"),
    ],
)
def test_a_folder_of_no_network_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str],
    model_folder: Path,
    tmp_path: Path,
    field: str,
    value: Any,
    message: str,
) -> None:
    shutil.copytree(model_folder, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text()) | {field: value}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    assert main(["profile", "--model", str(tmp_path / "m"), *SMALL]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--model", "mobius-test", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "layer2.ffn" in out
    assert "64x96, 5 names" in out
    assert "dispatch and closed form agree within 0.1% in every part" in out


@pytest.mark.slow
def test_the_exported_graph_agrees_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--model", "mobius-test", *SMALL, "--certify"]) == 0
    assert "dispatch and closed form and exported graph agree" in capsys.readouterr().out


@pytest.mark.slow
def test_limits_with_a_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "limits.png"
    values = run_json(capsys, "--limits", *SMALL, "--out", str(picture))
    totals = [entry["gmac"]["total"] for entry in values["backbones"].values()]
    assert totals == sorted(totals, reverse=True)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "mobius-x"], "unknown model"),
        (["--model", "mobius-test", "--size", "50x64"], "multiples of 32"),
        (["--model", "mobius-test", "--size", "640"], "no height and width"),
        (["--model", "mobius-test", "--size", "3200000x3200000"], "multiples of 32 up to 65536"),
        (["--model", "mobius-test", "--names", "9" * 30], "is above 1000000000"),
        (["--model", "mobius-test", "--text-tokens", "9" * 400], "is above 1000000000"),
        (["--model", "mobius-test", "--operating-point", "slow"], "allowed: full, balanced, fast"),
        (["--model", "mobius-test", "--out", "a.png"], "--limits"),
        (["--limits", "--against", "mobius-test"], "--against"),
        (["--model", "glee-lite", "--text-tokens", "7"], "81 or more"),
        ([], "--model"),
    ],
)
def test_refuses_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["profile", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1
