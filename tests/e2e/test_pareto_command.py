"""``mobius-seg pareto`` from the command line."""

import dataclasses
import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.support.coco import NAMES, write_rectangles

from mobius_seg.bench.contenders import Contender
from mobius_seg.bench.interleave import Measured
from mobius_seg.bench.runners import load_runner
from mobius_seg.checkpoint import load_model, save_model
from mobius_seg.cli import main
from mobius_seg.cli_options import build_parser
from mobius_seg.operating_points import CALIBRATION_KEY, OperatingPoint, OperatingPoints
from mobius_seg.pareto import accuracy, timing
from mobius_seg.pruning import PruningPolicy

POINTS = {
    "full": PruningPolicy(),
    "balanced": PruningPolicy.static((6, 3)),
    "fast": PruningPolicy(thresholds=(0.0, 1.0), floors=((0.0, 0.1), (0.0, 0.1)), settle=5.0),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_rectangles(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mobius-test with saved random weights and a point of each form."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    save_model(load_model("mobius-test", random_weights=True), folder, training={"steps": 0})
    points = {name: OperatingPoint(policy) for name, policy in POINTS.items()}
    conditions = {CALIBRATION_KEY: None, "annotations": "calib.json"}
    OperatingPoints(points, conditions).save(folder)
    return folder


@pytest.fixture
def command(data: tuple[Path, Path], model: Path, tmp_path: Path) -> list[str]:
    """The command over that model, to be given more options."""
    where = ["--annotations", str(data[0]), "--images", str(data[1])]
    short = ["--threads", "1", "--runs", "1", "--blocks", "1"]
    return ["pareto", *where, "--models", str(model), *short, "--out", str(tmp_path / "page.html")]


class Timer:
    """Stands for the benchmark: says what it was asked to time, and made-up times."""

    def __init__(self) -> None:
        self.asked: list[Contender] = []

    def __call__(
        self, contenders: Sequence[Contender], options: Any, left_out: Callable[[str], None]
    ) -> list[Measured]:
        assert (options.runs, options.blocks) == (1, 1)
        self.asked = list(contenders)
        return [
            Measured(contender=one, blocks_ms=((10.0 - i,),), peak_mb=300.0)
            for i, one in enumerate(contenders)
        ]


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> Timer:
    found = Timer()
    monkeypatch.setattr(timing, "measure_all", found)
    return found


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each evaluation, which runs; after three of them it is interrupted."""
    calls: list[dict[str, Any]] = []
    evaluate = accuracy.evaluate

    def counted(*given: Any, **asked: Any) -> dict[str, Any]:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(asked)
        return evaluate(*given, **asked)

    monkeypatch.setattr(accuracy, "evaluate", counted)
    return calls


def _values(tmp_path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((tmp_path / "page.json").read_text())
    return values


def test_points_of_every_form_in_torch(
    command: list[str],
    timer: Timer,
    evaluations: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*command, "--runtimes", "torch"]) == 0
    printed, errors = capsys.readouterr()
    assert [one.operating_point for one in timer.asked] == list(POINTS)
    assert [len(one.scenes) for one in timer.asked] == [0, 0, 3]  # the adaptive one sees pictures
    assert timer.asked[2].asked == NAMES
    assert [asked["operating_point"] for asked in evaluations] == list(POINTS.values())
    values = _values(tmp_path)
    assert [point["adaptive"] for point in values["points"]] == [False, False, True]
    assert [point["latency_ms_median"] for point in values["points"]] == [10, 9, 8]
    full, balanced, fast = (point["gmac"] for point in values["points"])
    assert full > max(balanced, fast)
    assert values["points"][0]["params"] == sum(
        one.numel() for one in load_model("mobius-test", random_weights=True).parameters()
    )
    assert values["conditions"]["images"] == 3
    for line in ("1/3", "2/3", "3/3", "timing 3 points"):
        assert line in errors
    assert "page.html" in printed
    page = (tmp_path / "page.html").read_text()
    assert all(command in page for point in values["points"] for command in point["commands"])
    assert len(evaluations) == 3
    assert main([*command, "--runtimes", "torch"]) == 0  # nothing is evaluated again
    assert capsys.readouterr().err.count("(kept)") == 3
    assert _values(tmp_path)["points"] == values["points"]
    assert main([*command, "--runtimes", "torch", "--limit", "2"]) == 130  # other pictures are


def test_an_interrupted_run_goes_on(
    command: list[str], timer: Timer, evaluations: list[dict[str, Any]], tmp_path: Path
) -> None:
    more = ["--models", f"{command[6]}@64,{command[6]}@96", "--runtimes", "torch"]
    assert main([*command, *more]) == 130
    assert not (tmp_path / "page.html").exists()
    assert len(_values(tmp_path)["accuracy"]) == 3
    evaluations.clear()
    assert main([*command, *more]) == 0
    assert [asked["size"] for asked in evaluations] == [96] * 3
    assert [point["side"] for point in _values(tmp_path)["points"]] == [64] * 3 + [96] * 3


def _exported(
    contenders: Sequence[Contender], folder: Path, left_out: Callable[[str], None]
) -> Iterator[Contender]:
    for one in contenders:
        if one.runtime == "openvino":
            left_out("no openvino today")
        else:
            path = "" if one.runtime == "torch" else str(folder)
            yield dataclasses.replace(one, path=path)


def test_graphs_have_the_accuracy_of_their_own_schedule(
    command: list[str],
    timer: Timer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(timing, "with_exports", _exported)
    monkeypatch.setattr(timing, "check_graph", lambda setting, path: None)
    assert main([*command, "--operating-points", "full,fast"]) == 0
    values = _values(tmp_path)
    rows = [(p["operating_point"], p["runtime"], p["adaptive"]) for p in values["points"]]
    assert rows == [
        ("full", "torch", False),
        ("full", "onnx", False),
        ("fast", "torch", True),
        ("fast", "onnx", False),
    ]
    policies = [entry["key"]["policy"] for entry in values["accuracy"]]
    assert policies[:2] == [POINTS["full"].to_dict(), POINTS["fast"].to_dict()]
    assert policies[2]["keep"]  # the fixed schedule that stands for the adaptive one
    assert len(policies) == 3
    assert values["left_out"] == ["no openvino today"] * 2
    assert "left out: no openvino today" in capsys.readouterr().err
    assert "no openvino today" in (tmp_path / "page.html").read_text()


def test_nothing_is_evaluated_for_graphs_that_are_not_there(
    command: list[str],
    timer: Timer,
    evaluations: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(timing, "with_exports", _exported)
    assert main([*command, "--runtimes", "openvino"]) == 2
    assert "nothing is left to measure" in capsys.readouterr().err
    assert evaluations == []


def _without_masks(folder: Path, entry: dict[str, Any]) -> None:
    values = json.loads((folder / "annotations.json").read_text())
    values["annotations"] = [entry] if entry else []
    (folder / "annotations.json").write_text(json.dumps(values))


BOX = {"id": 7, "image_id": 0, "category_id": 0, "bbox": [1, 1, 9, 9], "iscrowd": 0}
REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "unknown model": ({"--models": "mobius-x"}, "unknown model 'mobius-x'"),
    "random weights": ({"--models": "mobius-p"}, "random ones says nothing"),
    "no multiple": ({"--models": "mobius-n@50"}, "multiples of 32"),
    "not square": ({"--models": "mobius-n@64x96"}, "give one side"),
    "blank model": ({"--models": "mobius-n,"}, "--models"),
    "huge": ({"--models": "mobius-n@16384"}, "32 to 8192"),
    "runtime": ({"--runtimes": "tensorrt"}, "allowed: torch, onnx"),
    "point": ({"--operating-points": "slow"}, "allowed: full, balanced, fast"),
    "annotations": ({"--annotations": "none.json"}, "none.json"),
    "images": ({"--images": "none"}, "no such folder of pictures"),
    "pictures": ({"--images": "."}, "no picture '0.png'"),
    "out": ({"--out": "."}, "is a folder"),
    "json": ({"--json": "set/images"}, "is a folder"),
    "no place": ({"--out": "set/annotations.json/page.html"}, "no folder to write in"),
    "same": ({"--out": "page.json"}, "two files"),
    "written over": ({"--out": "set/annotations.json", "--json": "a"}, "would write over it"),
    "foreign": ({"--json": "foreign.json"}, "holds no figures of this command"),
    "threads": ({"--threads": "0"}, "whole number"),
    "blocks": ({"--blocks": "x"}, "whole number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_in_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rectangles(Path("set"))
    Path("foreign.json").write_text("{}")
    before = sorted(str(path) for path in Path().rglob("*"))
    changes, message = REFUSED[case]
    usual = {"--annotations": "set/annotations.json", "--images": "set/images"}
    options = usual | {"--out": "page.html", "--runtimes": "torch"} | changes
    assert main(["pareto", *(part for pair in options.items() for part in pair)]) == 2
    _one_line(capsys, message)
    assert sorted(str(path) for path in Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("entry", "message"), [({}, "there is no average precision"), (BOX, "with id 7 has no mask")]
)
def test_refuses_what_has_no_accuracy(
    entry: dict[str, Any],
    message: str,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    annotations, images = write_rectangles(tmp_path / "set")
    _without_masks(tmp_path / "set", entry)
    where = ["--annotations", str(annotations), "--images", str(images)]
    assert main([*command, *where]) == 2
    _one_line(capsys, message)


def _one_line(capsys: pytest.CaptureFixture[str], message: str) -> None:
    printed, errors = capsys.readouterr()
    assert message in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert printed == ""


def test_an_adaptive_point_is_timed_on_pictures(data: tuple[Path, Path], model: Path) -> None:
    scenes = tuple(str(data[1] / f"{i}.png") for i in range(3))
    contender = Contender(
        model=str(model), runtime="torch", size=(64, 64), names=2, threads=1,
        operating_point="fast", scenes=scenes, asked=NAMES,
    )  # fmt: skip
    assert Contender.from_json(contender.to_json()) == contender
    runner: Any = load_runner(contender)
    assert runner.facts["schedule"] == "adaptive, on 3 pictures in turn"
    assert [tuple(picture.shape) for picture in runner.inputs] == [(1, 3, 64, 64)] * 3
    seen: list[Any] = []
    runner.model.network.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    layers: list[Any] = []
    first = runner.model.network.decoder.layers[0]
    first.register_forward_pre_hook(lambda *_: layers.append(1))
    last = runner.model.network.decoder.layers[-1]
    last.register_forward_pre_hook(lambda *_: layers.append(2))
    for _ in range(4):
        runner.run()
    assert len(seen) == 4
    assert not (seen[0] == seen[1]).all()
    assert (seen[0] == seen[3]).all()
    assert layers == [1] * 4  # it settles after the first layer, as its policy says


@pytest.mark.long
def test_everything_is_really_run(
    command: list[str],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra export)")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save("photo.jpg")
    arguments = ["--runtimes", "torch,onnx", "--operating-points", "full,fast"]
    kept = ["--exports", "graphs"]
    assert main([*command, *arguments, *kept]) == 0
    values = _values(tmp_path)
    assert len(values["points"]) == 4
    for point in values["points"]:
        assert point["latency_ms_p95"] >= point["latency_ms_median"] > 0
        assert (point["graph_mb"] is None) == (point["runtime"] == "torch")
        for line in point["commands"]:
            program, *parts = shlex.split(line)
            assert program == "mobius-seg"
            build_parser().parse_args(parts)
    (line,) = values["points"][2]["commands"]
    assert main(shlex.split(line)[1:]) == 0, line
    other = tmp_path / "other"  # a graph of other weights is not taken for one of these
    shutil.copytree(model, other)
    save_model(load_model("mobius-test", random_weights=True, seed=1), other)
    graph = next(path for path in Path("graphs").iterdir() if "full" in path.name)
    shutil.copytree(graph, "graphs/" + graph.name.replace(str(model).replace("/", "_"), "other"))
    assert main([*command, *arguments, *kept, "--models", "other"]) == 2
    assert "a graph of other weights" in capsys.readouterr().err
