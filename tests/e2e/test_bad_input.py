"""Every kind of bad input on the real command line: one line, exit code 2, never a traceback."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.support.models import HashEncoder

from mobius_seg.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _light_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobius_seg.predictor.default_encoder", HashEncoder)


@pytest.fixture
def picture(tmp_path: Path, photo: NDArray[np.uint8]) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    return path


def _refused(capsys: Capture, arguments: list[str], *words: str) -> None:
    """Exit code 2 and one line that says what and where."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, captured.err
    for word in words:
        assert word in captured.err
    assert captured.out == ""


def _png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 10) + b"IDAT" + bytes(14)


def _jpeg() -> bytes:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


FILES: dict[str, tuple[bytes, str]] = {
    "text.png": (b"this is no picture", "not an image"),
    "empty.png": (b"", "the file is empty"),
    "truncated.jpg": (_jpeg()[:2000], "truncated or damaged"),
    "bomb.png": (_png_header(50_000, 50_000), "decompression bomb"),
    "zero.png": (_png_header(0, 10), "no pixels"),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_pictures(tmp_path: Path, model_folder: Path, capsys: Capture, name: str) -> None:
    data, words = FILES[name]
    path = tmp_path / name
    path.write_bytes(data)
    out = tmp_path / "out"
    arguments = ["segment", str(path), "--everything", "--model", str(model_folder)]
    _refused(capsys, [*arguments, "--out", str(out)], str(path), words)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("missing.png", "no such file or folder"),
        ("*.nothing", "no file matches"),
        ("folder", "holds no image"),
        ("a\0b", "no such file"),
    ],
)
def test_paths_that_mean_nothing(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, pattern: str, words: str
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    _refused(capsys, ["segment", pattern, "--everything"], words)


def test_unreadable_file(
    picture: Path, model_folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    arguments = ["segment", str(picture), "--everything", "--model", str(model_folder)]
    _refused(capsys, [*arguments, "--out", str(picture.parent / "out")], "Permission denied")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([], "one of the arguments --names --expression --everything is required"),
        (["--names", ""], "blank name"),
        (["--names", "cup,,spoon"], "blank name"),
        (["--names", " , "], "blank name"),
        (["--expression", "  "], "--expression is blank"),
        (["--names", "a", "--everything"], "not allowed with"),
        (["--names", "a", "--expression", "b"], "not allowed with"),
        (["--names", "\udcff"], "not valid Unicode"),
        (["--everything", "--threshold", "nan"], "number from 0 to 1"),
        (["--everything", "--threshold", "inf"], "number from 0 to 1"),
        (["--everything", "--threshold", "1.01"], "number from 0 to 1"),
        (["--everything", "--threshold", "-0.1"], "number from 0 to 1"),
        (["--everything", "--threshold", "high"], "number from 0 to 1"),
        (["--everything", "--size", "0"], "whole number from 1"),
        (["--everything", "--size", "7"], "size is 7; allowed"),
        (["--everything", "--max-instances", "0"], "whole number from 1"),
        (["--everything", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["--everything", "--unknown"], "unrecognized arguments: --unknown"),
    ],
)
def test_bad_options(
    picture: Path, model_folder: Path, capsys: Capture, prompt: list[str], words: str
) -> None:
    out = str(picture.parent / "out")
    arguments = ["segment", str(picture), "--model", str(model_folder), "--out", out]
    _refused(capsys, [*arguments, *prompt], words)


def _break_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04\x95 pickle")


def _cut_file(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _foreign(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({f"bert.{k}": v for k, v in tensors.items()}, folder / "model.safetensors")


def _other_preset(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mask_width": 8}))


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _no_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_break_file, "not a readable safetensors file"),
        (_cut_file, "not a readable safetensors file"),
        (_foreign, "missing: "),
        (_other_preset, "of another shape: "),
        (_no_weights, "holds no model.safetensors"),
        (_no_config, "config.json: not valid JSON"),
    ],
)
def test_bad_models(
    tmp_path: Path,
    picture: Path,
    model_folder: Path,
    capsys: Capture,
    spoil: Callable[[Path], None],
    words: str,
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    spoil(folder)
    arguments = ["segment", str(picture), "--everything", "--out", str(tmp_path / "out")]
    _refused(capsys, [*arguments, "--model", str(folder)], str(folder), words)


def test_unknown_model(picture: Path, capsys: Capture) -> None:
    arguments = ["segment", str(picture), "--everything", "--out", str(picture.parent / "out")]
    _refused(capsys, [*arguments, "--model", "mobius-x"], "unknown model 'mobius-x'", "mobius-n")
    _refused(capsys, [*arguments, "--model", "mobius-h"], "no weights of 'mobius-h'")


@pytest.mark.parametrize("name", ["file", "file/out", "a\0b"])
def test_unwritable_output(
    tmp_path: Path, picture: Path, model_folder: Path, capsys: Capture, name: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    arguments = ["segment", str(picture), "--everything", "--model", str(model_folder)]
    _refused(capsys, [*arguments, "--out", str(tmp_path / name)], "error: ")


def test_full_disk(
    picture: Path, model_folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mobius_seg.segment_files.write_text", full)
    arguments = ["segment", str(picture), "--everything", "--model", str(model_folder)]
    _refused(capsys, [*arguments, "--out", str(picture.parent / "out")], "No space left on device")


COCO = {
    "images": [{"id": 1, "file_name": "photo.png", "width": 80, "height": 48}],
    "categories": [{"id": 1, "name": "cup"}],
}
ANNOTATION = {"id": 5, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 0}
BAD_COCO: dict[str, object] = {
    "not JSON": "{",
    "not an object": [],
    "no categories": {"images": COCO["images"], "annotations": []},
    "unknown image": COCO | {"annotations": [ANNOTATION | {"image_id": 9}]},
    "unknown category": COCO | {"annotations": [ANNOTATION | {"category_id": 9}]},
    "short polygon": COCO | {"annotations": [ANNOTATION | {"segmentation": [[1, 2, 3, 4]]}]},
    "short RLE": COCO
    | {"annotations": [ANNOTATION | {"segmentation": {"size": [48, 80], "counts": [1, 2]}}]},
    "long RLE": COCO
    | {"annotations": [ANNOTATION | {"segmentation": {"size": [48, 80], "counts": [9, 9999]}}]},
}


@pytest.mark.parametrize("name", BAD_COCO)
def test_bad_annotations(picture: Path, model_folder: Path, capsys: Capture, name: str) -> None:
    content = BAD_COCO[name]
    file = picture.parent / "annotations.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    arguments = ["eval", "--model", str(model_folder), "--annotations", str(file)]
    _refused(capsys, [*arguments, "--images", str(picture.parent)], "annotations.json")


def test_eval_writes_over_nothing_that_it_reads(
    picture: Path, model_folder: Path, capsys: Capture
) -> None:
    file = picture.parent / "annotations.json"
    text = json.dumps(COCO | {"annotations": [ANNOTATION]})
    file.write_text(text)
    arguments = ["eval", "--model", str(model_folder), "--annotations", str(file)]
    arguments += ["--images", str(picture.parent)]
    _refused(capsys, [*arguments, "--out", str(file)], "--out would write over it")
    assert file.read_text() == text
    for out, words in ((picture.parent, "is a folder"), (file / "x.json", "no folder to write in")):
        _refused(capsys, [*arguments, "--out", str(out)], words)
    _refused(capsys, [*arguments, "--size", "7"], "size is 7; allowed: whole numbers from 32")


@pytest.mark.parametrize(
    "arguments",
    [
        ["calibrate", "--annotations", "a", "--images", "b", "--out", ""],
        ["eval", "--annotations", "", "--images", "b"],
        ["segment", "a.png", "--everything", "--out", ""],
        ["profile", "--model", ""],
    ],
)
def test_an_unset_variable_is_no_path(capsys: Capture, arguments: list[str]) -> None:
    _refused(capsys, arguments, "is empty; allowed: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["segment"], "required: PATH"),
        (["assets"], "required: STEP"),
        (["train", "--preset", "mobius-n", "--out", "x"], "either steps or minutes"),
        (["train", "--preset", "mobius-n", "--out", "x", "--steps", "1", "--lr", "-1"], "lr is"),
        (["train", "--preset", "mobius-n", "--out", "x", "--steps", "1", "--size", "a"], "--size"),
        (["compose", "--split", "val", "--out", "x"], "invalid choice: 'val'"),
    ],
)
def test_bad_commands(capsys: Capture, arguments: list[str], words: str) -> None:
    _refused(capsys, arguments, words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "100x128"], "size is 100x128; allowed: multiples of 32"),
        (["--size", "64"], "no height and width"),
        (["--size", "64x64", "--dynamic-size"], "not allowed with"),
        (["--names", "a,,b"], "blank name"),
        (["--names", "a", "--everything"], "give no names"),
        (["--everything", "--dynamic-names"], "give no names"),
        (["--operating-point", "slow"], "slow"),
        (["--precision", "int3"], "int3"),
        (["--format", "tensorrt"], "tensorrt"),
        (["--model", "nope"], "unknown model 'nope'"),
        (["--parity-images", "."], "belong together"),
        (["--parity-annotations", "missing.json", "--parity-images", "."], "missing.json"),
        (["--model", "mobius-test", "--out", "file"], "file: is a file"),
    ],
)
def test_exports_that_cannot_be_meant(
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    arguments = ["export", *options] if "--out" in options else ["export", "--out", "x", *options]
    assert main(arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert words in error
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not valid JSON"), ("[]", "format 1"), ('{"format": 1}', "malformed")],
)
def test_exported_folders_that_are_none(
    tmp_path: Path, picture: Path, capsys: Capture, text: str, words: str
) -> None:
    (tmp_path / "model.json").write_text(text)
    arguments = ["segment", str(picture), "--names", "a", "--model", str(tmp_path)]
    _refused(capsys, [*arguments, "--out", str(tmp_path / "out")], "model.json", words)
