"""The experiment scripts can at least be started, and measure what they say."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from mobius_seg.calibration_file import Calibration, PrecisionTable
from mobius_seg.data.coco import read_coco
from mobius_seg.posthoc import ScoreMaps
from mobius_seg.predictor import Predictor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(
    path.relative_to(BENCHMARKS).with_suffix("").as_posix().replace("/", ".")
    for path in BENCHMARKS.rglob("*.py")
    if path.stem != "__init__"
)


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder on the path; modules that a test imports from it are forgotten."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS / "claims"))  # a script's own folder comes first
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield BENCHMARKS
    own = {name for name in set(sys.modules) - before if name.split(".")[0] in _tops()}
    for name in own:
        del sys.modules[name]


def _tops() -> set[str]:
    return {part for script in SCRIPTS for part in script.split(".")}


def _imported(script: str) -> ModuleType:
    try:
        return importlib.import_module(script)
    except ModuleNotFoundError as error:  # a rival's package is an extra of the comparison
        if (error.name or "").split(".")[0] in _tops() | {"mobius_seg"}:
            raise
        pytest.skip(f"needs {error.name}")


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_import(script: str, benchmarks: Path) -> None:
    assert benchmarks.is_dir()
    assert _imported(script).__doc__


@pytest.mark.slow
def test_a_cell_of_the_pruning_experiment_reads_the_model_s_maps(
    benchmarks: Path, tmp_path: Path, predictor: Predictor
) -> None:
    assert benchmarks.is_dir()
    script: Any = _imported("claims.pruning")
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    box = {"bbox": [0, 0, 32, 64], "segmentation": [[0, 0, 32, 0, 32, 64, 0, 64]], "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "0.png", "height": 64, "width": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **box}],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    data = script.Data(read_coco(tmp_path / "a.json"), tmp_path, range(1), 64)
    mine = {"plans": {}, "true_positives": {"0": [1]}}
    cell = script._run(predictor, data, mine, "layers@1")
    assert cell["layers"] == 1
    assert cell["queries"] == [12, 12, 0]
    maps = ScoreMaps.identity(3)
    table = PrecisionTable(thresholds=(0.1,), precision=(0.5,))
    modes = ("names", "everything")
    calibration = Calibration(
        maps=dict.fromkeys(modes, maps),
        tables=dict.fromkeys(modes, table),
        weights_sha256="",
        fitted_on={},
    )
    model = SimpleNamespace(
        calibration=calibration, planner=predictor.planner, config=predictor.config
    )
    policy = script.PruningPolicy()
    fixed = script.PruningPolicy.static((3, 3), 2)
    plan = {"adaptive": policy, "uncalibrated": policy, "fixed": fixed}
    mine["plans"] = {"0.1": {key: value.to_dict() for key, value in plan.items()}}
    mine["static"] = {"fast": fixed.to_dict()}
    for name in ("full", "layers@1", "static@fast", "adaptive@0.1", "fixed@0.1", "random@0.1"):
        assert script._policy_of(model, mine, name)[1] is maps
    assert script._policy_of(model, mine, "uncalibrated@0.1")[1] is not maps
