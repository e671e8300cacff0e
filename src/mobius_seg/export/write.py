"""Writes an exported folder: graphs, ``model.json``, the text encoder where names are an input.

Everything is made in a folder of its own and moved into place when it is complete, ``model.json``
last: a folder that has one can be used.
"""

import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mobius_seg.calibration_file import MODES, NAMES
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.export.graph import ExportGraph
from mobius_seg.export.onnx_file import OPSET, write_onnx
from mobius_seg.export.openvino_file import write_openvino
from mobius_seg.export.request import ExportRequest, Source
from mobius_seg.export.schedule import Schedule, find_schedule
from mobius_seg.export.spec import (
    IMAGE,
    LICENCE,
    PARITY_FILE,
    SPEC_FILE,
    TEXT,
    ExportSpec,
    GraphFile,
)
from mobius_seg.export.text_graph import (
    TEXT_FILE,
    TOKENIZER_FILE,
    check_encoder,
    write_text_encoder,
)
from mobius_seg.prompts import Prompt, build_batch
from mobius_seg.text import default_encoder
from mobius_seg.text_features import TextEncoder
from mobius_seg.types import TextPrompt
from mobius_seg.version import __version__

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
OWN_FILES = (
    *("model.onnx", "model_dynamic.onnx", "model.xml", "model.bin", "model_dynamic.xml"),
    *("model_dynamic.bin", "model.pte", "model.tflite", TEXT_FILE, TOKENIZER_FILE, PARITY_FILE),
)
"""What exports write beside ``model.json``."""
PRECISIONS_STATED = (0.5, 0.75, 0.9)
"""Precisions whose thresholds ``model.json`` states, where the calibration set reached them."""


def export_model(
    request: ExportRequest, source: Source, *, text_encoder: TextEncoder | None = None
) -> tuple[ExportSpec, dict[str, ExportGraph]]:
    """Write the folder of a request.

    Args:
        request: what is wanted.
        source: the network that it names.
        text_encoder: encodes fixed names; None for the default.

    Returns:
        What ``model.json`` says, and the modules by vocabulary, for a comparison.

    Raises:
        InputError: the model has no such operating point, its vocabulary cannot be an input, or the
            folder cannot be written.
    """
    schedule = find_schedule(source.config, source.points, request.operating_point)
    if "dynamic" in request.vocabularies:
        check_encoder(source.config.text_encoder)
    prompts = _prompts(request, source.config, text_encoder)
    graphs = {
        vocabulary: ExportGraph(source.network, schedule.policy, prompt)
        for vocabulary, prompt in prompts.items()
    }
    side = source.config.input_size // 32 * 32
    size = request.size or (side, side)
    with staged(request.out) as folder:
        files: list[GraphFile] = []
        for vocabulary, graph in graphs.items():
            stem = "model" if not files else f"model_{vocabulary}"
            files.append(_describe(request, graph, vocabulary, stem, size, schedule))
            facts = _facts(request, source, schedule) | {"names": files[-1].names}
            _write_graph(request, graph, folder / files[-1].file, size, facts)
        text = {}
        if "dynamic" in graphs and request.text_files:
            text = write_text_encoder(folder)
        spec = _spec(request, source, schedule, tuple(files), size, text)
        (folder / SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")
    return spec, graphs


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder inside ``out`` whose files move there when the block succeeds, ``model.json`` last.

    What an earlier export left there is removed.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as name:
            folder = Path(name)
            yield folder
            for old in (SPEC_FILE, *OWN_FILES):
                (out / old).unlink(missing_ok=True)
            for file in sorted(folder.iterdir(), key=lambda file: file.name == SPEC_FILE):
                file.replace(out / file.name)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from None


def _prompts(
    request: ExportRequest, config: ModelConfig, encoder: TextEncoder | None
) -> dict[str, TextPrompt | None]:
    """What each graph is asked for; None where text is an input."""
    found: dict[str, TextPrompt | None] = {}
    for vocabulary in request.vocabularies:
        if vocabulary == "dynamic":
            found[vocabulary] = None
        elif vocabulary == "everything":
            found[vocabulary] = TextPrompt.everything(config.text_dim)
        else:
            prompt = Prompt(names=request.names)
            found[vocabulary] = build_batch(
                [prompt], encoder or default_encoder(), config.fuse_subwords
            )
    return found


def _describe(
    request: ExportRequest,
    graph: ExportGraph,
    vocabulary: str,
    stem: str,
    size: tuple[int, int],
    schedule: Schedule,
) -> GraphFile:
    """File, names and shapes of a graph."""
    names = tuple(Prompt(names=request.names).texts) if vocabulary == "baked" else ()
    columns: int | str = "names" if vocabulary == "dynamic" else max(1, len(names))
    queries: int | str = schedule.queries(graph.network.config)[-1]
    height, width = ("height", "width") if request.dynamic_size else size
    quarter = ("height/4", "width/4") if request.dynamic_size else (size[0] // 4, size[1] // 4)
    if request.dynamic_size:
        queries = "queries" if _may_lack_tokens(graph.network.config) else queries
    else:
        queries = min(int(queries), _tokens(graph.network.config, size))
    inputs: dict[str, list[int | str]] = {IMAGE: ["batch", 3, height, width]}
    if vocabulary == "dynamic":
        inputs[TEXT] = [columns, graph.network.config.text_dim]
    outputs: dict[str, list[int | str]] = {
        "scores": ["batch", queries, columns],
        "objectness": ["batch", queries],
        "boxes": ["batch", queries, 4],
        "masks": ["batch", queries, *quarter],
    }
    file = f"{stem}{SUFFIXES[request.runtime]}"
    return GraphFile(file=file, vocabulary=vocabulary, names=names, inputs=inputs, outputs=outputs)


def _tokens(config: ModelConfig, size: tuple[int, int]) -> int:
    """Tokens that compete to become queries."""
    return sum(-(-size[0] // s) * -(-size[1] // s) for s in config.token_strides)


def _may_lack_tokens(config: ModelConfig) -> bool:
    """Whether the smallest input has fewer tokens than the network has queries."""
    return _tokens(config, (32, 32)) < config.queries


def _write_graph(
    request: ExportRequest,
    graph: ExportGraph,
    file: Path,
    size: tuple[int, int],
    facts: dict[str, Any],
) -> None:
    """One graph in the format asked for."""
    half, free = request.precision == "fp16", request.dynamic_size
    if request.runtime == "onnx":
        write_onnx(graph, file, size, dynamic_size=free, half=half, facts=facts)
        return
    with tempfile.TemporaryDirectory() as name:
        onnx_file = Path(name) / "model.onnx"
        write_onnx(graph, onnx_file, size, dynamic_size=free, facts=facts)
        write_openvino(onnx_file, file, half=half)


def _facts(request: ExportRequest, source: Source, schedule: Schedule) -> dict[str, Any]:
    """What a file says about itself."""
    return {
        "model": source.config.name,
        "weights_sha256": source.weights["sha256"] or "random weights",
        "operating_point": schedule.point,
        "schedule": schedule.describe(source.config),
        "precision": request.precision,
        "mobius_seg": __version__,
        "licence": LICENCE,
    }


def _spec(
    request: ExportRequest,
    source: Source,
    schedule: Schedule,
    files: tuple[GraphFile, ...],
    size: tuple[int, int],
    text: dict[str, Any],
) -> ExportSpec:
    """What ``model.json`` says."""
    calibration = source.calibration
    stage = schedule.policy.depth(source.config.decoder_layers)
    maps = {} if calibration is None else {m: calibration.maps[m].stages[stage] for m in MODES}
    thresholds = {}
    if calibration is not None and stage == source.config.decoder_layers:
        thresholds = _thresholds(calibration.tables[NAMES].threshold_for)
    versions = {"mobius_seg": __version__, **_versions(request.runtime)}
    return ExportSpec(
        runtime=request.runtime,
        graphs=files,
        config=source.config,
        weights=source.weights,
        operating_point=schedule.point,
        schedule=schedule.describe(source.config),
        size=None if request.dynamic_size else size,
        batch=None,
        precision=request.precision,
        calibration=maps,
        thresholds=thresholds,
        facts={"opset": OPSET, "versions": versions, **text},
    )


def _thresholds(threshold_for: Callable[[object], float]) -> dict[str, float]:
    """Thresholds of the precisions that the calibration set reached."""
    found = {}
    for precision in PRECISIONS_STATED:
        try:
            found[f"{precision:g}"] = threshold_for(precision)
        except InputError:
            continue
    return found


def _versions(runtime: str) -> dict[str, str]:
    """Versions of the packages that wrote the graphs."""
    wanted = ["torch", "onnx", "onnxscript", *(["openvino"] if runtime == "openvino" else [])]
    return {name: importlib.metadata.version(name) for name in wanted}
