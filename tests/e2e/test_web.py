"""The browser page in headless Chromium: what it shows is what the package finds."""

import contextlib
import importlib.util
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import mobius_seg
from mobius_seg.checkpoint import find_folder, weights_digest

pytestmark = pytest.mark.slow

WEB = Path(__file__).parents[2] / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
ORIGINALS = {"cat.png": "chelsea.png", "coffee.png": "coffee.png"}
SIZE, THRESHOLD = 256, 0.001
IOU = 0.97
UNUSUAL = "zebra crossing"
"""A name that is not bundled: it goes through the text encoder."""


@pytest.fixture(scope="module")
def browser() -> str:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    if not (WEB / "node_modules" / "playwright-core").is_dir():
        pytest.skip("web/node_modules is not there (cd web && npm ci)")
    if not (WEB / "assets" / "index.json").is_file():
        pytest.skip("web/assets is not there (make web)")
    index = json.loads((WEB / "assets" / "index.json").read_text())
    if index["weights"]["sha256"] != weights_digest(find_folder("mobius-n")):
        pytest.skip("web/assets are of other weights (make web)")
    return found


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The address of a served folder."""
    spec = importlib.util.spec_from_file_location("serve", WEB / "serve.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = module.make_server(folder, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def _drive(browser: str, url: str, *arguments: str) -> dict[str, Any]:
    command = ["node", str(WEB / "tests" / "browser.mjs"), "--url", url, "--chromium", browser]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def report(browser: str) -> dict[str, Any]:
    options = {
        "--size": str(SIZE),
        "--threshold": str(THRESHOLD),
        "--points": "full,balanced,fast",
        "--text": UNUSUAL,
    }
    with _served(WEB) as url:
        found = _drive(browser, url, *(part for pair in options.items() for part in pair))
        found["url"] = url
    return found


def _mask(instance: dict[str, Any]) -> NDArray[np.bool_]:
    height, width = instance["size"]
    flat = np.zeros(height * width, np.bool_)
    for start, end in zip(instance["edges"][::2], instance["edges"][1::2], strict=True):
        flat[start:end] = True
    return flat.reshape(height, width)


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("point", ["full", "balanced", "fast", "text"])
def test_the_page_finds_what_python_finds(report: dict[str, Any], point: str) -> None:
    photos = Path(next(iter(_submodules("skimage")))) / "data"
    if point in ("full", "text"):
        model: Any = mobius_seg.load("mobius-n")
    else:  # a graph holds a static schedule, the weights an adaptive one
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")
        from mobius_seg.export import open_exported

        model = open_exported(WEB / "assets" / point)
    runs = [run for run in report["runs"] if run["point"] == point]
    assert len(runs) == (1 if point == "text" else 2)
    for run in runs:
        assert run["error"] is None
        names = [name.strip() for name in run["names"].split(",")]
        photo = photos / ORIGINALS[run["demo"]]
        wanted = model.predict(photo, names=names, size=SIZE, threshold=report["threshold"])
        assert [one["name"] for one in run["instances"]] == wanted.names
        scores = [one["score"] for one in run["instances"]]
        np.testing.assert_allclose(scores, wanted.scores, atol=1e-3)
        ious = [_iou(_mask(one), wanted.mask(i)) for i, one in enumerate(run["instances"])]
        print(run["demo"], point, [round(iou, 4) for iou in ious], run["times"])
        assert all(iou >= IOU for iou in ious), ious
    assert point == "text" or sum(len(run["instances"]) for run in runs) > 0


def _submodules(package: str) -> list[str]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip(f"{package} is not installed")
    return list(spec.submodule_search_locations)


def test_each_graph_is_fetched_once_and_from_here_alone(report: dict[str, Any]) -> None:
    own = [url.removeprefix(report["url"]) for url in report["requests"]]
    assert not [url for url in own if url.startswith(("http", "//"))]
    for path in ("full/model.onnx", "balanced/model.onnx", "fast/model.onnx", "text_encoder.onnx"):
        assert own.count(f"assets/{path}") == 1, path


def test_nothing_complains_and_errors_are_one_line(report: dict[str, Any]) -> None:
    assert report["complaints"] == []
    assert "at least one name" in report["errors"]["names"]
    assert "not a picture" in report["errors"]["file"]
    assert "empty" in report["errors"]["empty"]


def test_keyboard_and_phone(report: dict[str, Any]) -> None:
    assert report["keyboard"][:5] == ["names", "point", "size", "run", "threshold"]
    assert report["widest"] <= 390


def test_threads_are_there(report: dict[str, Any]) -> None:
    assert "threads" in report["runs"][0]["threads"]


def test_without_assets_the_page_says_what_to_do(browser: str, tmp_path: Path) -> None:
    for part in ("index.html", "style.css", "icon.svg"):
        shutil.copy(WEB / part, tmp_path / part)
    shutil.copytree(WEB / "js", tmp_path / "js")
    with _served(tmp_path) as url:
        found = _drive(browser, url, "--only", "start")
    assert "make web" in found["errors"]["start"]
