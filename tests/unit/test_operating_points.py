"""Operating points as data: what a damaged file is told, and what a static one runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from mobius_seg.errors import InputError
from mobius_seg.operating_points import OperatingPoint, layer_queries, load_points, plan_of
from mobius_seg.presets import get_preset
from mobius_seg.pruning import PruningPolicy

CONFIG = get_preset("mobius-test")  # 12 queries, 2 layers
FULL = {"policy": PruningPolicy().to_dict(), "measured": {}}
STATIC = {"policy": PruningPolicy.static((6, 4)).to_dict(), "measured": {}}
ADAPTIVE = {
    "policy": PruningPolicy(settle=0.1).to_dict(),
    "measured": {"ap": None, "queries_0": 12.0, "queries_1": 8.5, "queries_2": 3.25},
}


def file(folder: Path, content: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "operating_points.json").write_text(text)
    return folder


def points(**changes: Any) -> dict[str, Any]:
    stored = {"full": FULL, "balanced": ADAPTIVE, "fast": STATIC}
    return {"format": 1, "conditions": {}, "points": stored} | changes


def measured(**changes: Any) -> dict[str, Any]:
    entry = ADAPTIVE | {"measured": ADAPTIVE["measured"] | changes}
    return points(points={"full": FULL, "balanced": entry})


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    found = load_points(file(tmp_path, points(graphs={"balanced": STATIC})), CONFIG)
    assert plan_of(CONFIG, "balanced", found.points["balanced"]) == (9, 4)
    assert plan_of(CONFIG, "balanced", found.graphs["balanced"]) == (6, 4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "cannot be read"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps(points())[:-1] + ', "format": 1}', "'format' stands there twice"),
        (points(format=2), "format 1"),
        (points(points={"balanced": ADAPTIVE}), "must be an object that holds 'full'"),
        (points(points={"full": ADAPTIVE}), "the policy of 'full' prunes"),
        (points(graphs={"balanced": ADAPTIVE}), "is not static"),
        (points(graphs={"best": STATIC}), "'best' among 'graphs' is none of the points"),
        (points(graphs={"full": STATIC}), "'full' among 'graphs' is none of the points"),
        (measured(queries_1=float("nan")), "balanced: 'measured' must hold finite numbers"),
        (measured(queries_1=float("inf")), "balanced: 'measured' must hold finite numbers"),
        (measured(loss=10**400), "a whole number of 401 digits"),
        (measured(queries_1=13), "allowed: 0 to 12, stage by stage never more"),
        (measured(queries_1=0), "allowed: 0 to 12, stage by stage never more"),
        (measured(queries_2=-1), "allowed: 0 to 12, stage by stage never more"),
    ],
)
def test_damaged_files_are_told_in_one_line(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_points(file(tmp_path, content), CONFIG)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "operating_points.json"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "operating_points.json").mkdir()
    with pytest.raises(InputError, match=r"operating_points\.json: cannot be read"):
        load_points(tmp_path, CONFIG)


def test_a_schedule_without_layers_still_cuts_the_selection() -> None:
    point = OperatingPoint(PruningPolicy.static((4,), 0))
    assert layer_queries(CONFIG, "least", point) == (4, 0, 0)
    assert layer_queries(CONFIG, "layers", OperatingPoint(PruningPolicy.static((), 0))) == (
        12,
        0,
        0,
    )
