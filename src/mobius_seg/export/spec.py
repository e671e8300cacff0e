"""``model.json``: what an exported folder holds and how its graphs are asked.

docs/export.md describes every field for readers without this package.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.posthoc import StageMap

SPEC_FILE, PARITY_FILE = "model.json", "parity.json"
QUANTIZATION_FILE = "quantization.json"
FORMAT = 1
LICENCE = "Apache-2.0"
IMAGE, TEXT = "image", "text"
OUTPUTS = ("scores", "objectness", "boxes", "masks")
RUNTIMES = ("onnx", "openvino", "executorch", "litert")
VOCABULARIES = ("baked", "dynamic", "everything")


@dataclass(frozen=True, kw_only=True)
class GraphFile:
    """One graph of a folder.

    Attributes:
        file: its name in the folder.
        vocabulary: ``baked`` (fixed names), ``dynamic`` (text vectors are an input) or
            ``everything`` (no names: one column, the object's).
        names: of a baked graph, in the order of its columns; else empty.
        inputs: shapes by input; a text stands for a dimension that may vary.
        outputs: shapes by output, likewise.
    """

    file: str
    vocabulary: str
    names: tuple[str, ...]
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """What ``model.json`` says.

    Attributes:
        runtime: one of :data:`RUNTIMES`.
        graphs: the main graph, then one with a dynamic vocabulary where both were asked for.
        config: of the network.
        weights: where they come from and the SHA-256 of their file (None for random ones).
        operating_point: name of the point.
        schedule: layers, queries of each stage (the selection first) and their origin.
        size: height and width of the input; None where both may be any multiples of 32.
        batch: pictures a call; None for any number.
        precision: ``fp32``, ``fp16`` or ``int8``.
        calibration: map of the last stage's scores for ``names`` and ``everything``; empty where
            the model is not calibrated.
        thresholds: score thresholds by precision on the calibration set, for the reader.
        facts: whatever else the writer of a format states: opset, versions of packages.
    """

    runtime: str
    graphs: tuple[GraphFile, ...]
    config: ModelConfig
    weights: dict[str, Any]
    operating_point: str
    schedule: dict[str, Any]
    size: tuple[int, int] | None
    batch: int | None
    precision: str
    calibration: dict[str, StageMap]
    thresholds: dict[str, float]
    facts: dict[str, Any]

    @property
    def main(self) -> GraphFile:
        """The graph that the folder is about."""
        return self.graphs[0]

    @property
    def dynamic(self) -> GraphFile | None:
        """The graph whose vocabulary is an input, where there is one."""
        return next((graph for graph in self.graphs if graph.vocabulary == "dynamic"), None)

    def to_json(self) -> str:
        """The file's text."""
        config, main = self.config, self.main
        values = {
            "format": FORMAT,
            "runtime": self.runtime,
            "file": main.file,
            "model": config.name,
            "weights": self.weights,
            "licence": LICENCE,
            "operating_point": self.operating_point,
            "schedule": self.schedule,
            "size": None if self.size is None else list(self.size),
            "size_multiple": 32,
            "batch": self.batch,
            "vocabulary": main.vocabulary,
            "names": list(main.names),
            "inputs": main.inputs,
            "outputs": main.outputs,
            "graphs": [_graph_values(graph) for graph in self.graphs],
            "precision": self.precision,
            "text_dim": config.text_dim,
            "text_encoder": config.text_encoder,
            "image": "RGB, 0 to 1; mean and deviation are inside the graph",
            "image_mean": list(config.image_mean),
            "image_std": list(config.image_std),
            "objectness_weight": config.objectness_weight,
            "nms_iou": config.nms_iou,
            "mask_margin": config.mask_margin,
            "mask_stride": 4,
            "default_threshold": 0.3,
            "thresholds": self.thresholds,
            "calibration": {mode: _map_values(kept) for mode, kept in self.calibration.items()},
            "facts": self.facts,
            "config": dataclasses.asdict(config),
        }
        return json.dumps(values, indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read the file of a folder.

        Raises:
            InputError: there is none, or it is malformed.
        """
        path = Path(folder) / SPEC_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"{folder}: is no exported folder, {SPEC_FILE} cannot be read:"
                f" {error.strerror or error}"
            ) from None
        except ValueError as error:
            raise InputError(f"{path}: not valid JSON ({error})") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise InputError(f"{path}: not an exported model of format {FORMAT}")
        try:
            return cls._of(values, path)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                known = str(error).startswith(str(path))
                raise error if known else InputError(f"{path}: {error}") from None
            raise InputError(f"{path}: malformed: {type(error).__name__}: {error}") from None

    @classmethod
    def _of(cls, values: dict[str, Any], path: Path) -> Self:
        """From the file's object."""
        graphs = tuple(
            GraphFile(**{**graph, "names": tuple(graph["names"])}) for graph in values["graphs"]
        )
        for graph in graphs:
            _check_graph(graph)
            if graph.vocabulary not in VOCABULARIES or Path(graph.file).name != graph.file:
                raise InputError(f"{path}: graph {graph.file!r:.60} is not one of the folder's")
        if not graphs or values["runtime"] not in RUNTIMES:
            raise InputError(f"{path}: runtime {values['runtime']!r:.40} with {len(graphs)} graphs")
        maps = {mode: _read_map(entry) for mode, entry in values["calibration"].items()}
        return cls(
            runtime=values["runtime"],
            graphs=graphs,
            config=ModelConfig.from_json(json.dumps(values["config"]), str(path)),
            weights=dict(values["weights"]),
            operating_point=str(values["operating_point"]),
            schedule=_schedule(values["schedule"]),
            size=None if values["size"] is None else _sides(values["size"]),
            batch=None if values["batch"] is None else _batch(values["batch"]),
            precision=values["precision"],
            calibration=maps,
            thresholds=dict(values["thresholds"]),
            facts=dict(values["facts"]),
        )


def is_exported(folder: object) -> bool:
    """Whether a model's name is the folder of an export."""
    return isinstance(folder, str | Path) and (Path(folder) / SPEC_FILE).is_file()


def _graph_values(graph: GraphFile) -> dict[str, Any]:
    return {**dataclasses.asdict(graph), "names": list(graph.names)}


def _map_values(kept: StageMap) -> dict[str, Any]:
    return {"temperature": kept.temperature, "knots": [list(knot) for knot in kept.knots]}


def _read_map(entry: dict[str, Any]) -> StageMap:
    knots = tuple((float(x), float(y)) for x, y in entry["knots"])
    return StageMap(temperature=entry["temperature"], knots=knots)


def _check_graph(graph: GraphFile) -> None:
    """Names are texts, each once; inputs and outputs have shapes."""
    names = graph.names
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise InputError(f"graph {graph.file!r:.60}: names must be texts, each once")
    for shapes in (graph.inputs, graph.outputs):
        if not isinstance(shapes, dict) or not all(isinstance(s, list) for s in shapes.values()):
            raise InputError(f"graph {graph.file!r:.60}: inputs and outputs must be shapes by name")


def _schedule(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict) or not isinstance(values.get("origin"), str):
        raise InputError("schedule must be an object that says its origin")
    return dict(values)


def _batch(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise InputError(f"batch is {value!r:.40}; allowed: null or a whole number from 1")
    return value


def _sides(sides: list[int]) -> tuple[int, int]:
    height, width = (int(side) for side in sides)
    if height < 32 or width < 32 or height % 32 or width % 32:
        raise InputError(f"size is {height}x{width}; allowed: multiples of 32")
    return height, width
