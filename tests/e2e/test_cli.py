"""The command line as a user types it; the model is tiny and the encoder needs no weights."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from tests.support.models import HashEncoder

import mobius_seg
from mobius_seg import cli
from mobius_seg.cli import main
from mobius_seg.files import atomic_path
from mobius_seg.segment_files import plan_outputs

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _light_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobius_seg.predictor.default_encoder", HashEncoder)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: NDArray[np.uint8]) -> Path:
    """A folder of pictures, and the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.jpg", "c.PNG"):
        Image.fromarray(photo).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    return tmp_path


def _segment(model: Path, *arguments: str) -> int:
    return main(["segment", "--model", str(model), "--threshold", "0", *arguments])


def test_one_picture(here: Path, model_folder: Path, capsys: Capture) -> None:
    assert _segment(model_folder, "in/a.png", "--names", "cup, spoon", "--out", "out") == 0
    assert sorted(p.name for p in (here / "out").iterdir()) == ["a.json", "a.png"]
    assert Image.open(here / "out" / "a.png").size == (80, 48)
    result = json.loads((here / "out" / "a.json").read_text())
    assert list(result) == ["image", "width", "height", "model", "instances"]
    assert result["image"] == "in/a.png"
    assert (result["width"], result["height"]) == (80, 48)
    assert result["model"] == str(model_folder)
    assert result["instances"]
    for entry in result["instances"]:
        assert list(entry) == ["name", "score", "bbox", "segmentation"]
        assert entry["name"] in ("cup", "spoon")
        assert 0 <= entry["score"] <= 1
        x, y, width, height = entry["bbox"]
        assert x >= 0
        assert y >= 0
        assert width > 0
        assert height > 0
        assert coco_mask.decode(entry["segmentation"]).shape == (48, 80)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"wrote {Path('out/a.png')} and {Path('out/a.json')}" in captured.out
    assert "cup" in captured.out or "spoon" in captured.out


@pytest.mark.parametrize("prompt", [["--expression", "the cup on the left"], ["--everything"]])
def test_other_prompts(here: Path, model_folder: Path, prompt: list[str]) -> None:
    assert _segment(model_folder, "in/a.png", *prompt) == 0
    result = json.loads((here / "segmented" / "a.json").read_text())
    expected = "object" if len(prompt) == 1 else prompt[1]
    assert {entry["name"] for entry in result["instances"]} == {expected}


def test_folders_and_globs(here: Path, model_folder: Path, capsys: Capture) -> None:
    arguments = ["in", "in/*.png", "in/a.png", "**/*.jpg", "--everything"]
    assert _segment(model_folder, *arguments) == 0
    written = sorted(p.name for p in (here / "segmented").iterdir())
    assert written == ["a.json", "a.png", "b.json", "b.png", "c.json", "c.png"]
    assert "a.png" in capsys.readouterr().out


def test_equal_stems(here: Path, model_folder: Path) -> None:
    for name in ("x/a.png", "y/a.jpg", "y/A.png", "y/a-2.png"):
        (here / name).parent.mkdir(exist_ok=True)
        shutil.copy(here / "in" / "a.png", here / name)
    assert _segment(model_folder, "x", "y", "--everything") == 0
    results = {p.stem: json.loads(p.read_text()) for p in (here / "segmented").glob("*.json")}
    assert sorted(entry["image"] for entry in results.values()) == [
        str(Path(name)) for name in ("x/a.png", "y/A.png", "y/a-2.png", "y/a.jpg")
    ]
    assert results["a-2"]["image"] == str(Path("y/a-2.png"))
    assert len({stem.casefold() for stem in results}) == 4


def test_pictures_are_never_written_over(here: Path, model_folder: Path) -> None:
    before = {p.name: p.read_bytes() for p in (here / "in").iterdir()}
    assert _segment(model_folder, "in", "--everything", "--out", "in") == 0
    for name, data in before.items():
        assert (here / "in" / name).read_bytes() == data
    jobs = plan_outputs([here / "in" / "a.png"], here / "in")
    assert jobs[0].overlay.name == "a-2.png"


def test_a_bad_picture_among_many(here: Path, model_folder: Path, capsys: Capture) -> None:
    (here / "in" / "bad.png").write_bytes(b"no picture")
    assert _segment(model_folder, "in", "missing.png", "--everything") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 2
    assert "missing.png: no such file" in lines[0]
    assert "bad.png: not an image" in lines[1]
    assert len(list((here / "segmented").glob("*.json"))) == 3


def test_running_again_replaces_the_results(here: Path, model_folder: Path) -> None:
    for names in ("cup", "dog"):
        assert _segment(model_folder, "in/a.png", "--names", names) == 0
        result = json.loads((here / "segmented" / "a.json").read_text())
        assert {entry["name"] for entry in result["instances"]} == {names}
    assert len(list((here / "segmented").iterdir())) == 2


@pytest.mark.parametrize(
    "names",
    [
        "🐱,👩‍👩‍👧",
        "שלום,مرحبا",
        "[red]x[/red],\x1b[31m",
        "x" * 10_000,
        ",".join(map(str, range(2000))),
    ],
    ids=["emoji", "right to left", "markup", "long", "2000"],
)
def test_odd_names(here: Path, model_folder: Path, capsys: Capture, names: str) -> None:
    assert _segment(model_folder, "in/a.png", "--names", names) == 0
    result = json.loads((here / "segmented" / "a.json").read_text())
    assert {entry["name"] for entry in result["instances"]} <= set(names.split(","))
    assert "\x1b[31m" not in capsys.readouterr().out


def test_odd_file_names(here: Path, model_folder: Path) -> None:
    odd = ["-a.png", "[x].png", "a b\nc.png", "ü 🐱.png"]
    for name in odd:
        shutil.copy(here / "in" / "a.png", here / name)
    assert _segment(model_folder, "--everything", "--", *odd) == 0
    assert len(list((here / "segmented").glob("*.json"))) == 4


def test_nothing_found_is_no_error(here: Path, model_folder: Path, capsys: Capture) -> None:
    assert main(
        ["segment", "in/a.png", "--everything", "--model", str(model_folder), "--threshold", "1"]
    ) == 0  # fmt: skip
    assert json.loads((here / "segmented" / "a.json").read_text())["instances"] == []
    assert "nothing" in capsys.readouterr().out


def test_what_came_closest_is_said(here: Path, model_folder: Path, capsys: Capture) -> None:
    arguments = ["--model", str(model_folder), "--threshold", "1", "--names", "cup,spoon"]
    assert main(["segment", "in/a.png", *arguments]) == 0
    out = capsys.readouterr().out
    assert "nothing found" in out
    assert re.search(r"nothing at 1 or above; the best were (cup|spoon) 0\.\d\d", out)


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    for module in [name for name in sys.modules if name.startswith("mobius_seg.data")]:
        monkeypatch.delitem(sys.modules, module)
    arguments = ["--split", "calib", "--count", "1", "--seed", "0", "--out", str(tmp_path / "x")]
    assert main(["compose", *arguments]) == 2
    error = capsys.readouterr().err
    assert "cv2" in error
    assert "[train]" in error
    assert "Traceback" not in error


def test_models(capsys: Capture) -> None:
    assert main(["models"]) == 0
    output = capsys.readouterr().out
    for info in mobius_seg.list_models():
        (line,) = [line for line in output.splitlines() if f" {info.name} " in line]
        assert info.config.backbone in line
        assert f"{info.config.expected_params / 1e6:.2f}" in line
        assert ("not shipped" not in line) == info.shipped


def test_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"mobius-seg {mobius_seg.__version__}\n"


def test_interrupt(
    here: Path, model_folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mobius_seg.segment_files.segment_file", interrupt)
    assert _segment(model_folder, "in/a.png", "--everything") == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def _run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mobius_seg", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_polite_kill_cleans_up(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> int:
        with atomic_path(tmp_path / "out.json") as temporary:
            temporary.write_text("half")
            signal.raise_signal(signal.SIGTERM)
            time.sleep(5)
        return 0

    monkeypatch.setitem(cli._COMMANDS, "models", killed)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["models"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_goes_away() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mobius_seg", "models"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert b"Traceback" not in errors
    assert b"Exception" not in errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_under_the_output() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mobius_seg", "models"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: No space left on device")
    assert "Exception ignored" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), "out of memory"),
        (OSError(5, "Input/output error", "disk/a.png"), "disk/a.png: Input/output error"),
    ],
)
def test_failures_of_the_machine(
    here: Path,
    model_folder: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    words: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("mobius_seg.segment_files.segment_file", fail)
    assert _segment(model_folder, "in/a.png", "--everything") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1


def test_an_encoding_without_the_characters() -> None:
    done = _run(["segment", "кошка.png", "--everything"], PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert done.stderr == "error: ?????.png: no such file or folder\n"


@pytest.mark.parametrize("command", ["train", "eval", "compose"])
def test_commands_of_others_are_reached(command: str, capsys: Capture, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    arguments = {
        "train": ["--preset", "mobius-x", "--out", out, "--steps", "1"],
        "eval": ["--annotations", "none.json", "--images", ".", "--model", "mobius-x"],
        "compose": ["--split", "calib", "--count", "1", "--pack", "none.safetensors", "--out", out],
    }[command]
    assert main([command, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_train_options_reach_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    from mobius_seg.loss_config import LossConfig
    from mobius_seg.train import loop
    from mobius_seg.train.settings import TrainConfig
    from mobius_seg.train.validation_settings import Validation

    runs: list[TrainConfig] = []

    def train(config: TrainConfig) -> Path:
        runs.append(config)
        return Path("done")

    monkeypatch.setattr(loop, "train", train)
    assert main(["train", "--preset", "mobius-n", "--out", "run", "--steps", "5"]) == 0
    assert runs[0] == TrainConfig(preset="mobius-n", out=Path("run"), steps=5)
    more = ["--minutes", "2", "--resume", "--size", "64", "--negatives", "1", "9"]
    arguments = [*more, "--lr", "0.5", "--no-freeze-norm", "--no-pretrained"]
    arguments += ["--loss", "class_loss=focal", "--loss", "pull=0", "--model-option", "width=64"]
    assert main(["train", "--preset", "mobius-n", "--out", "run", *arguments]) == 0
    assert runs[1] == TrainConfig(
        preset="mobius-n", out=Path("run"), minutes=2, resume=True, sizes=((0.0, 64),),
        negatives=(1, 9), lr=0.5, freeze_norm=False, pretrained=False,
        loss=LossConfig(class_loss="focal", pull=0.0), overrides={"width": 64},
    )  # fmt: skip
    judged = ["--val-annotations", "a.json", "--val-images", "b", "--val-steps", "7"]
    arguments = ["--preset", "mobius-n", "--out", "run", "--steps", "5", *judged]
    assert main(["train", *arguments, "--val-limit", "3"]) == 0
    assert runs[2].validation == Validation(
        annotations=Path("a.json"), images=Path("b"), steps=7, limit=3
    )


def test_every_training_setting_has_an_option() -> None:
    import dataclasses

    from mobius_seg.cli_options import build_parser
    from mobius_seg.train.settings import TrainConfig

    options = build_parser().parse_args(["train", "--preset", "x", "--out", "y"])
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    assert fields - set(vars(options)) == {"sizes", "validation"}  # --size and --val-...
