"""Make what the browser page loads: graphs, text vectors of common names, runtime and pictures.

``python web/make_assets.py`` (``make web``) writes everything into ``web/assets``, which is not
committed. Run ``npm ci`` in ``web`` first: the runtime is copied from there.
"""

import argparse
import importlib.util
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mobius_seg.errors import InputError
from mobius_seg.export.request import ExportRequest, open_source
from mobius_seg.export.spec import SPEC_FILE, ExportSpec
from mobius_seg.export.text_graph import TEXT_FILE, TOKENIZER_FILE
from mobius_seg.export.write import export_model
from mobius_seg.files import atomic_path
from mobius_seg.text import default_encoder
from mobius_seg.text_cache import BUNDLED_NAMES, read_names
from mobius_seg.version import __version__

WEB = Path(__file__).resolve().parent
POINTS = ("full", "balanced", "fast")
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PICTURES = {"cat.png": "chelsea.png", "coffee.png": "coffee.png"}
"""Name in the page -> name in scikit-image."""
_SMALL = 256  # values: smaller weights stay as they are
_LARGEST = 65504.0  # of float16


def main() -> int:
    """Write what ``--only`` names, everything by default.

    Returns:
        The exit code: 0, or 2 with one line where something is missing.
    """
    makers = {"runtime": _runtime, "pictures": _pictures, "names": _names, "graphs": _graphs}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mobius-n", help="shipped model or folder")
    parser.add_argument("--out", type=Path, default=WEB / "assets", help="default: web/assets")
    parser.add_argument("--only", choices=tuple(makers), nargs="+", default=list(makers))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        for part in options.only:
            makers[part](options.out, options.model)
        _index(options.out)
    except InputError as error:
        print(f"error: {error}")
        return 2
    return 0


def _runtime(out: Path, model: str) -> None:
    """ONNX Runtime for the browser, as npm fetched it."""
    source = WEB / "node_modules" / "onnxruntime-web"
    if not source.is_dir():
        raise InputError(f"{source}: not there; run npm ci in {WEB}")
    (out / "ort").mkdir(exist_ok=True)
    for name in RUNTIME:
        shutil.copyfile(source / "dist" / name, out / "ort" / name)


def _pictures(out: Path, model: str) -> None:
    """The two photographs of the demonstration."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("the demo pictures come from scikit-image (pip install scikit-image)")
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    (out / "demo").mkdir(exist_ok=True)
    for name, original in PICTURES.items():
        shutil.copyfile(folder / original, out / "demo" / name)


def _names(out: Path, model: str) -> None:
    """Text vectors of the names that ship with the package: float16 [K, D], names beside them."""
    vectors = read_names(BUNDLED_NAMES, default_encoder().identity)
    table_KD = np.stack([vector.numpy() for vector in vectors.values()]).astype("<f2")
    (out / "names.f16").write_bytes(table_KD.tobytes())
    text = json.dumps({"names": list(vectors), "dim": table_KD.shape[1]}, ensure_ascii=False)
    (out / "names.json").write_text(text + "\n", encoding="utf-8")


def _graphs(out: Path, model: str) -> None:
    """One folder for each operating point, and the text encoder once."""
    source = open_source(model)
    for point in POINTS:
        with tempfile.TemporaryDirectory(prefix=".graphs-", dir=out) as name:
            request = ExportRequest(
                model=model,
                out=Path(name),
                operating_point=point,
                dynamic_names=True,
                dynamic_size=True,
                text_files=point == POINTS[0],
            )
            export_model(request, source)
            (out / point).mkdir(exist_ok=True)
            _store(Path(name) / "model.onnx", out / point / "model.onnx", exact=True)
            shutil.copyfile(Path(name) / SPEC_FILE, out / point / SPEC_FILE)
            if request.text_files:
                _store(Path(name) / TEXT_FILE, out / TEXT_FILE, exact=False)
                shutil.copyfile(Path(name) / TOKENIZER_FILE, out / TOKENIZER_FILE)


def _index(out: Path) -> None:
    """What is there, for the page's own words."""
    specs = {point: ExportSpec.read(out / point) for point in POINTS}
    first = specs[POINTS[0]]
    index = {
        "version": __version__,
        "model": first.config.name,
        "weights": first.weights,
        "input_size": first.config.input_size,
        "points": {point: spec.schedule for point, spec in specs.items()},
        "bytes": {
            path.relative_to(out).as_posix(): path.stat().st_size for path in out.glob("**/*.onnx")
        },
    }
    (out / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _store(source: Path, target: Path, *, exact: bool) -> None:
    """Write a graph with its weights as float16 and a cast behind each, which the runtime folds.

    Args:
        source: a float32 graph.
        target: where it goes.
        exact: leave weights as they are that float16 would round.
    """
    model = onnx.load(source)
    graph = model.graph
    kept: list[Any] = []
    casts: list[Any] = []
    for weight in graph.initializer:
        values: NDArray[Any] = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < _SMALL or np.abs(values).max() > _LARGEST:
            kept.append(weight)
            continue
        half = values.astype(np.float16)
        if exact and not np.array_equal(half.astype(np.float32), values):
            kept.append(weight)
            continue
        stored = f"{weight.name}.f16"
        kept.append(numpy_helper.from_array(half, stored))
        casts.append(helper.make_node("Cast", [stored], [weight.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    with atomic_path(target) as temporary:
        onnx.save(model, temporary)


if __name__ == "__main__":
    raise SystemExit(main())
