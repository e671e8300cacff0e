"""Writes an exported folder: graphs, ``model.json``, the text encoder where names are an input.

Everything is made in a folder of its own and moved into place when it is complete, ``model.json``
last: a folder that has one can be used.
"""

import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mobius_seg.calibration_file import MODES, NAMES
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.export.calibration_pictures import calibration_feeds
from mobius_seg.export.chain import CHAIN
from mobius_seg.export.chain_file import chain_schedule, write_chain
from mobius_seg.export.executorch_file import write_executorch
from mobius_seg.export.graph import ExportGraph
from mobius_seg.export.litert_file import write_litert
from mobius_seg.export.onnx_file import OPSET, write_onnx
from mobius_seg.export.openvino_file import write_openvino
from mobius_seg.export.parity import known_texts
from mobius_seg.export.quantize import to_int8
from mobius_seg.export.request import ExportRequest, Source, check_static
from mobius_seg.export.schedule import Schedule, find_schedule
from mobius_seg.export.spec import (
    IMAGE,
    LICENCE,
    PARITY_FILE,
    QUANTIZATION_FILE,
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
from mobius_seg.posthoc import ScoreMaps
from mobius_seg.prompts import Prompt, build_batch
from mobius_seg.text import default_encoder
from mobius_seg.text_features import TextEncoder
from mobius_seg.types import TextPrompt
from mobius_seg.version import __version__

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "executorch": ".pte", "litert": ".tflite"}
OWN_FILES = (
    *("model.onnx", "model_dynamic.onnx", "model.xml", "model.bin", "model_dynamic.xml"),
    *("model_dynamic.bin", "model.pte", "model_dynamic.pte"),
    *("model.tflite", "model_dynamic.tflite"),
    *(TEXT_FILE, TOKENIZER_FILE, PARITY_FILE, QUANTIZATION_FILE, "encode.onnx", "masks.onnx"),
)
"""What exports write beside ``model.json``."""
_WRITERS = {
    "onnx": ("onnx", "onnxscript"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "executorch": ("executorch",),
    "litert": ("litert-torch", "litert-converter", "ai-edge-litert"),
}
CALIBRATION_NAMES = 80
"""Names that a graph is calibrated with where they are an input."""
QUANTIZATION = "quantization"
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
    find = chain_schedule if request.segments else find_schedule
    schedule = find(source.config, source.points, request.operating_point)
    if request.static:
        check_static(source.config, request.runtime)
    if "dynamic" in request.vocabularies:
        check_encoder(source.config.text_encoder)
    prompts = _prompts(request, source.config, text_encoder)
    graphs = {
        vocabulary: ExportGraph(source.network, schedule.policy, prompt, padded=request.static)
        for vocabulary, prompt in prompts.items()
    }
    side = source.config.input_size // 32 * 32
    size = request.size or (side, side)
    with staged(request.out) as folder:
        files: list[GraphFile] = []
        made: dict[str, Any] = {}
        reports: dict[str, Any] = {}
        for vocabulary, graph in graphs.items():
            stem = "model" if not files else f"model_{vocabulary}"
            files.append(_describe(request, graph, vocabulary, stem, size, schedule))
            facts = _facts(request, source, schedule) | {"names": files[-1].names}
            if request.segments:
                policy, maps = source.points.policy(schedule.point), _stage_maps(source)
                made[CHAIN] = write_chain(graph, folder, size, policy, maps, facts)
                continue
            found = _write_graph(request, graph, folder / files[-1].file, size, facts)
            if QUANTIZATION in found:
                reports[files[-1].file] = found.pop(QUANTIZATION)
            if found:
                made[files[-1].file] = found
        if reports:
            report = json.dumps(reports, indent=1, allow_nan=False) + "\n"
            (folder / QUANTIZATION_FILE).write_text(report, encoding="utf-8")
        text = {}
        if "dynamic" in graphs and request.text_files:
            text = write_text_encoder(folder)
        spec = _spec(request, source, schedule, tuple(files), size, {**text, **made})
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
            olds = [out / old for old in (SPEC_FILE, *OWN_FILES)]
            for old in (*olds, *sorted(out.glob("layer_[0-9]*.onnx"))):
                old.unlink(missing_ok=True)
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
    """File, names and shapes of a graph; of a chain, those of the whole."""
    names = tuple(Prompt(names=request.names).texts) if vocabulary == "baked" else ()
    columns: int | str = max(1, len(names))
    if vocabulary == "dynamic":
        columns = request.text_rows or "names"
    batch: int | str = 1 if request.static or request.segments else "batch"
    queries: int | str = schedule.queries(graph.network.config)[-1]
    height, width = ("height", "width") if request.dynamic_size else size
    quarter = ("height/4", "width/4") if request.dynamic_size else (size[0] // 4, size[1] // 4)
    if request.dynamic_size:
        queries = "queries" if _may_lack_tokens(graph.network.config) else queries
    else:
        queries = min(int(queries), _tokens(graph.network.config, size))
    if request.segments:
        stem, queries = "encode", "queries"
    inputs: dict[str, list[int | str]] = {IMAGE: [batch, 3, height, width]}
    if vocabulary == "dynamic":
        inputs[TEXT] = [columns, graph.network.config.text_dim]
    outputs: dict[str, list[int | str]] = {
        "scores": [batch, queries, columns],
        "objectness": [batch, queries],
        "boxes": [batch, queries, 4],
        "masks": [batch, queries, *quarter],
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
) -> dict[str, Any]:
    """One graph in the format asked for; what is to be said about it."""
    half, free = request.precision == "fp16", request.dynamic_size
    if request.runtime == "executorch":
        return write_executorch(graph, file, size, request.text_rows)
    if request.runtime == "litert":
        return write_litert(graph, file, size, request.text_rows, half=half)
    if request.runtime == "onnx":
        if request.precision == "int8":
            return _write_int8(request, graph, file, size, facts)
        write_onnx(graph, file, size, dynamic_size=free, half=half, facts=facts)
        return {}
    with tempfile.TemporaryDirectory() as name:
        onnx_file = Path(name) / "model.onnx"
        write_onnx(graph, onnx_file, size, dynamic_size=free, facts=facts)
        write_openvino(onnx_file, file, half=half)
    return {}


def _write_int8(
    request: ExportRequest,
    graph: ExportGraph,
    file: Path,
    size: tuple[int, int],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """An ONNX graph in int8; returns what ``quantization.json`` says about it."""
    assert request.calibration_images is not None, "checked with the request"
    text_KD = None
    if graph.dynamic:
        config = graph.network.config
        text_KD = known_texts(config.text_encoder, config.text_dim, CALIBRATION_NAMES)
    feeds = calibration_feeds(request.calibration_images, request.calibration_limit, size, text_KD)
    report: dict[str, Any] = {}

    def change(model: Any) -> Any:
        quantised, found = to_int8(model, feeds)
        report.update(found)
        return quantised

    write_onnx(graph, file, size, dynamic_size=request.dynamic_size, change=change, facts=facts)
    return {QUANTIZATION: report}


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
    made: dict[str, Any],
) -> ExportSpec:
    """What ``model.json`` says."""
    calibration = source.calibration
    stage = schedule.policy.depth(source.config.decoder_layers)
    maps = {} if calibration is None else {m: calibration.maps[m].stages[stage] for m in MODES}
    thresholds = {}
    if calibration is not None and stage == source.config.decoder_layers:
        thresholds = _thresholds(calibration.tables[NAMES].threshold_for)
    versions = {"mobius_seg": __version__, **_versions(request)}
    opset = {} if request.static else {"opset": OPSET}
    return ExportSpec(
        runtime=request.runtime,
        graphs=files,
        config=source.config,
        weights=source.weights,
        operating_point=schedule.point,
        schedule=schedule.describe(source.config),
        size=None if request.dynamic_size else size,
        batch=1 if request.static or request.segments else None,
        precision=request.precision,
        calibration=maps,
        thresholds=thresholds,
        facts={**opset, "versions": versions, **made},
    )


def _stage_maps(source: Source) -> ScoreMaps | None:
    """Maps of every stage's confidence for names."""
    return None if source.calibration is None else source.calibration.maps[NAMES]


def _thresholds(threshold_for: Callable[[object], float]) -> dict[str, float]:
    """Thresholds of the precisions that the calibration set reached."""
    found = {}
    for precision in PRECISIONS_STATED:
        try:
            found[f"{precision:g}"] = threshold_for(precision)
        except InputError:
            continue
    return found


def _versions(request: ExportRequest) -> dict[str, str]:
    """Versions of the packages that wrote the graphs."""
    wanted = ["torch", *_WRITERS[request.runtime]]
    if request.static and "dynamic" in request.vocabularies:
        wanted += _WRITERS["onnx"]
    return {name: importlib.metadata.version(name) for name in wanted}
