"""Static operating points: fractions of a tuned decoder on other models, and how it is said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.models import HashEncoder, lively_network

from mobius_seg import static_points as module
from mobius_seg.cli import main
from mobius_seg.cost.certify import profile_at
from mobius_seg.cost.report import operating_points
from mobius_seg.errors import InputError
from mobius_seg.operating_points import OperatingPoint, OperatingPoints
from mobius_seg.predictor import Predictor
from mobius_seg.presets import get_preset
from mobius_seg.pruning import PruningPolicy
from mobius_seg.static_points import (
    StaticPoints,
    derive_static_points,
    read_static_points,
    static_points,
    write_static_points,
)

SHARES = (0.8, 0.5, 0.4, 0.3, 0.25, 0.2, 0.2, 0.1, 0.1)
SHORT = (0.5, 0.3, 0.2, 0.1, 0.1, 0.1, 0.0, 0.0, 0.0)
FOUND = StaticPoints(
    {"balanced": SHARES, "fast": SHORT},
    {"model": "deep", "queries": 100, "layers": 9, "images": 50, "loss": 0.3},
)
ORIGIN = "static: keep fractions tuned on deep with 100 queries and 9 layers (images 50, loss 0.3)"
DEEP = replace(get_preset("mobius-test"), name="deep", queries=100, decoder_layers=9)
ADAPTIVE = PruningPolicy(thresholds=(0.0,), floors=((0.1,),))


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data file in the place of the package's."""
    path = tmp_path / "static_points.json"
    path.write_text(FOUND.to_json())
    monkeypatch.setattr(module, "STATIC_FILE", path)
    return path


def scheduled(shares: tuple[float, ...]) -> OperatingPoint:
    """A static point of these shares."""
    keep = tuple(round(100 * share) for share in shares if share)
    return OperatingPoint(PruningPolicy.static(keep, len(keep) if len(keep) < 9 else None))


def tuned(**conditions: Any) -> OperatingPoints:
    full = OperatingPoint(PruningPolicy())
    points = {"full": full, "balanced": scheduled(SHARES), "fast": scheduled(SHORT)}
    return OperatingPoints(points, conditions)


def test_shares_become_the_queries_of_any_model() -> None:
    plans = operating_points(get_preset("mobius-m"), FOUND.of(get_preset("mobius-m")))
    assert plans["full"] == (300,) * 9
    assert plans["balanced"] == (240, 150, 120, 90, 75, 60, 60, 30, 30)
    assert plans["fast"] == (150, 90, 60, 30, 30, 30)  # no picture ran the last three
    # Two layers: the first and the last of nine; two thirds of them, rounded up, run.
    small = operating_points(get_preset("mobius-test"), FOUND.of(get_preset("mobius-test")))
    assert small == {"full": (12, 12), "balanced": (10, 1), "fast": (6, 1)}


@pytest.mark.parametrize(("layers", "run"), [(1, 1), (3, 2), (5, 3), (6, 3), (7, 4), (9, 4)])
def test_layers_that_do_not_run_pull_no_share_down(layers: int, run: int) -> None:
    found = StaticPoints({"balanced": (0.4,) * 4 + (0.0,) * 5}, {})
    config = replace(DEEP, decoder_layers=layers)
    assert operating_points(config, found.of(config))["balanced"] == (40,) * run


def test_shares_are_those_of_the_schedule(tmp_path: Path) -> None:
    points = tuned(images=50, loss=0.3, model="deep")
    assert derive_static_points(DEEP, points) == FOUND
    DEEP.save(tmp_path / "config.json")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="tune-pruning first"):
        write_static_points(tmp_path, tmp_path / "out.json")
    points.save(tmp_path)
    assert module._main([str(tmp_path), "--out", str(tmp_path / "out.json")]) == 0
    read = read_static_points(tmp_path / "out.json")
    conditions = {k: v for k, v in read.conditions.items() if k != "weights_sha256"}
    assert replace(read, conditions=conditions) == FOUND
    assert static_points(DEEP, tmp_path / "out.json").origin == ORIGIN


def test_a_static_point_keeps_its_own_shares() -> None:
    """Also one whose layers are limited: what does not run has the share 0."""
    policy = PruningPolicy.static((50, 20), 3)
    points = OperatingPoints({"full": OperatingPoint(PruningPolicy()), "a": OperatingPoint(policy)})
    shares = derive_static_points(DEEP, points).fractions["a"]
    assert shares == (0.5, 0.2, 0.2, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("layers", "points", "said"),
    [
        (8, tuned(), "deep has 8 decoder layers"),
        (9, OperatingPoints.only_full(), "no tuned points"),
        (9, FOUND.of(DEEP), "no tuned points"),
        (9, OperatingPoints({"a": OperatingPoint(ADAPTIVE)}), "is adaptive; run mobius-seg"),
    ],
    ids=["depth", "untuned", "static", "adaptive"],
)
def test_refuses_to_derive(layers: int, points: OperatingPoints, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        derive_static_points(replace(DEEP, decoder_layers=layers), points)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": 2, "conditions": {}, "points": {}}',
        '{"format": 1, "conditions": {}, "points": []}',
        *(
            f'{{"format": 1, "conditions": {{}}, "points": {{"fast": {shares}}}}}'
            for shares in ("[]", "[0.5, 0.6]", "[1.5]", "[0, 0]", '["a"]', "[true]", "0.5", "[-1]")
        ),
        '{"format": 1, "conditions": {}, "points": {"full": [1]}}',
    ],
)
def test_reading_is_strict(tmp_path: Path, text: str) -> None:
    path = tmp_path / "static_points.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"static_points\.json: ") as caught:
        read_static_points(path)
    assert "\n" not in str(caught.value)


def test_the_packaged_file_can_be_read(tmp_path: Path) -> None:
    assert module.STATIC_FILE.is_file()
    found = read_static_points()
    assert bool(found.fractions) == bool(static_points(DEEP).origin)
    assert all(len(shares) == module.LAYERS for shares in found.fractions.values())
    assert read_static_points(tmp_path / "nothing.json") == StaticPoints()


@pytest.mark.usefixtures("stored")
def test_profile_counts_the_static_plan_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["profile", "--model", "mobius-test", "--size", "64x64", "--names", "5"]
    assert main([*arguments, "--operating-point", "balanced", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    plan = profile_at(get_preset("mobius-test"), (64, 64), 5, None, [10, 1])
    assert values["gmac"]["transformer_decoder"] == plan.part_gmac("transformer_decoder")
    assert values["operating_point_origin"] == ORIGIN
    assert main([*arguments, "--operating-point", "balanced"]) == 0
    assert f"balanced is {ORIGIN}" in capsys.readouterr().out
    assert main([*arguments, "--operating-point", "quick"]) == 2
    assert "allowed: full, balanced, fast" in capsys.readouterr().err


def test_without_fractions_one_line(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored.unlink()
    arguments = ["profile", "--model", "mobius-m", "--operating-point", "balanced"]
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "static_points.json holds no keep fractions yet" in line


@pytest.mark.usefixtures("stored")
def test_profile_of_tuned_points_counts_their_mean_queries(
    capsys: pytest.CaptureFixture[str], model_folder: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(model_folder / name)
    point = OperatingPoint(ADAPTIVE, {"queries_0": 12.0, "queries_1": 6.5, "queries_2": 0.0})
    full = OperatingPoint(PruningPolicy())
    OperatingPoints({"full": full, "balanced": point}, {"annotations": "a.json"}).save(tmp_path)
    arguments = ["profile", "--model", str(tmp_path), "--size", "64x64", "--names", "5", "--json"]
    assert main([*arguments, "--operating-point", "balanced"]) == 0
    values = json.loads(capsys.readouterr().out)
    plan = profile_at(get_preset("mobius-test"), (64, 64), 5, None, [7])
    assert values["gmac"]["transformer_decoder"] == plan.part_gmac("transformer_decoder")
    assert values["operating_point_origin"] == "tuned: mean queries on a.json"


@pytest.mark.usefixtures("stored")
def test_models_without_tuned_points_predict_with_static_ones(
    photo: NDArray[np.uint8],
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    random = Predictor(lively_network(), text_encoder=HashEncoder(), device="cpu")
    assert random.planner.points.origin == ORIGIN
    found = random.predict(photo, names=["cup"], threshold=0.0, operating_point="balanced")
    assert found.receipt is not None
    assert found.receipt.queries == (10, 10, 1)
    from PIL import Image

    Image.fromarray(photo).save(tmp_path / "a.png")
    monkeypatch.setattr("mobius_seg.predictor.default_encoder", HashEncoder)
    common = ["segment", str(tmp_path / "a.png"), "--everything", "--model", str(model_folder)]
    arguments = ["--operating-point", "fast", "--threshold", "0", "--out", str(tmp_path / "out")]
    assert main([*common, *arguments]) == 0
    assert f"fast is {ORIGIN}" in capsys.readouterr().err
    receipt = json.loads((tmp_path / "out" / "a.json").read_text())["receipt"]
    assert receipt["queries"] == [6, 6, 1]
    assert receipt["operating_point"] == ORIGIN
