"""``mobius-seg bench`` from the command line, with real processes."""

import json
from pathlib import Path

import pytest

from mobius_seg.cli import main

SMALL = ["--models", "mobius-test", "--names-count", "3", "--threads", "1"]
SHORT = ["--runs", "2", "--blocks", "2"]


@pytest.mark.slow
def test_rows_stages_and_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--runtimes", "torch", "--peers", "rival", "--peers-dir", str(tmp_path)]
    assert main(["bench", *SMALL, *SHORT, *arguments, "--json", str(out)]) == 0
    printed, errors = capsys.readouterr()
    values = json.loads(out.read_text())
    assert [row["runtime"] for row in values["rows"]] == ["torch"]
    for row in values["rows"]:
        assert row["latency_ms_p95"] >= row["latency_ms_median"] > 0
        assert row["size"] == [64, 64]
        assert 50 < row["peak_mb"] < 5000
    assert "backbone" in values["stages"][0]["stages"]
    assert "rival_640x640.onnx is not there" in values["left_out"][0]
    assert "left out: peer rival" in errors
    assert "images/s" in printed
    assert "share of peak" in printed
    assert values["conditions"]["threads"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "mobius-x"], "unknown model"),
        (["--runtimes", "tensorrt"], "allowed: torch"),
        (["--size", "50x50"], "multiples of 32"),
        (["--operating-points", "slow"], "slow"),
        (["--precisions", "fp8"], "allowed: fp32"),
        (["--vocabulary", "none"], "allowed: fixed, dynamic"),
        (["--blocks", "0"], "whole number"),
        (["--precisions", "int8"], "--calibration-images belong together"),
        (["--calibration-images", "."], "--calibration-images belong together"),
        (["--precisions", "int8", "--calibration-images", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_refuses_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *SMALL, *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
