"""What is to be exported, checked before anything is built."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobius_seg.checkpoint import (
    WEIGHTS_FILE,
    find_folder,
    is_shipped,
    load_calibration,
    load_model,
    load_operating_points,
    weights_digest,
)
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.export.lint_targets import OPERATORS, SAMPLING
from mobius_seg.predict_arguments import SIZE_LIMITS
from mobius_seg.presets import PRESETS
from mobius_seg.static_points import static_points

if TYPE_CHECKING:
    from mobius_seg.calibration_file import Calibration
    from mobius_seg.model import Mobius
    from mobius_seg.operating_points import OperatingPoints

FORMATS = ("onnx", "openvino", "executorch", "litert")
STATIC_FORMATS = ("executorch", "litert")
"""Those whose graphs have fixed shapes: one picture a call, of one size, so many names."""
PRECISIONS = ("fp32", "fp16", "int8")
NAMES_COUNT = 80
"""Names that a graph of fixed shapes takes as an input, where nothing else is asked for."""
MOST_NAMES = 100_000
CALIBRATION_LIMIT = 64
"""Pictures that the ranges of int8 are taken from."""
SEED = 0
"""Of the random weights of presets that have none."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """The arguments of an export.

    Attributes:
        model: shipped model, preset or folder.
        out: folder to write.
        runtime: one of :data:`FORMATS`.
        operating_point: ``full``, ``balanced`` or ``fast``.
        names: fixed names; None for none.
        dynamic_names: text vectors are an input; with ``names`` a second graph beside theirs.
        everything: one column for every object.
        size: height and width; None for the model's own, square.
        dynamic_size: height and width may be any multiples of 32.
        precision: one of :data:`PRECISIONS`; ``int8`` for ONNX, ``fp16`` for all but
            ExecuTorch.
        names_count: names that a graph of :data:`STATIC_FORMATS` takes at most where they are an
            input; None for :data:`NAMES_COUNT`.
        segments: one graph a decoder layer, chained until the point's own rule stops, for ONNX.
        calibration_images: folder of pictures for ``int8``.
        calibration_limit: how many of them are used at most.
        seed: of random weights, for presets without weights.
        text_files: whether the text encoder goes beside a graph whose names are an input; several
            graphs of one model need it once.
    """

    model: str
    out: Path
    runtime: str = "onnx"
    operating_point: str = "full"
    names: tuple[str, ...] | None = None
    dynamic_names: bool = False
    everything: bool = False
    size: tuple[int, int] | None = None
    dynamic_size: bool = False
    precision: str = "fp32"
    names_count: int | None = None
    segments: bool = False
    calibration_images: Path | None = None
    calibration_limit: int = CALIBRATION_LIMIT
    seed: int = SEED
    text_files: bool = True

    def __post_init__(self) -> None:
        """Reject what cannot be meant.

        Raises:
            InputError: names the field, the value and what is allowed.
        """
        _one_of("format", self.runtime, FORMATS)
        _one_of("precision", self.precision, PRECISIONS)
        if self.everything and (self.names is not None or self.dynamic_names):
            raise InputError("everything finds objects without names; give no names with it")
        if self.names is not None and (not self.names or not all(map(str.strip, self.names))):
            raise InputError("names holds a blank name; give at least one, none of them blank")
        low, high = SIZE_LIMITS
        for side in self.size or ():
            if side % 32 or not low <= side <= high:
                raise InputError(
                    f"size is {self.size[0]}x{self.size[1]}; allowed: multiples of 32"  # type: ignore[index]
                    f" from {low} to {high}"
                )
        self._check_format()

    @property
    def vocabularies(self) -> tuple[str, ...]:
        """Of the graphs that are written, the main one first."""
        if self.everything:
            return ("everything",)
        baked = ("baked",) if self.names is not None else ()
        return (*baked, "dynamic") if self.dynamic_names or not baked else baked

    @property
    def static(self) -> bool:
        """Whether the format has fixed shapes alone."""
        return self.runtime in STATIC_FORMATS

    @property
    def text_rows(self) -> int | None:
        """Rows of the input ``text`` where they are fixed."""
        if not self.static or "dynamic" not in self.vocabularies:
            return None
        return NAMES_COUNT if self.names_count is None else self.names_count

    def _check_format(self) -> None:
        """What the format, the precision and the segments allow."""
        if self.static and self.dynamic_size:
            raise InputError(f"{self.runtime} takes pictures of one size; give --size")
        half = PRECISIONS[:2]
        precisions = {"onnx": PRECISIONS, "openvino": half, "litert": half}
        _one_of(
            f"precision for {self.runtime}", self.precision, precisions.get(self.runtime, ("fp32",))
        )
        if self.names_count is not None and self.text_rows is None:
            raise InputError(
                "--names-count is for names as an input in graphs of fixed shapes (--format"
                f" {' or '.join(STATIC_FORMATS)} with --dynamic-names)"
            )
        if self.names_count is not None and self.names_count > MOST_NAMES:
            raise InputError(f"--names-count is {self.names_count}; allowed: up to {MOST_NAMES}")
        if (self.precision == "int8") != (self.calibration_images is not None):
            raise InputError("--precision int8 and --calibration-images belong together")
        if self.calibration_images is not None and not self.calibration_images.is_dir():
            raise InputError(f"{self.calibration_images}: no such folder of pictures")
        if not self.segments:
            return
        if self.runtime != "onnx" or self.precision != "fp32" or self.dynamic_size:
            raise InputError("--segments is for --format onnx in fp32, of one size")
        if len(self.vocabularies) > 1 or self.everything:
            raise InputError("--segments is for names: either --names or --dynamic-names")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A network and what belongs to it.

    Attributes:
        network: on the CPU, in evaluation mode.
        calibration: None where it has none.
        points: its operating points.
        weights: where they come from, for ``model.json``.
    """

    network: "Mobius"
    calibration: "Calibration | None"
    points: "OperatingPoints"
    weights: dict[str, Any]

    @property
    def config(self) -> ModelConfig:
        """Of the network."""
        return self.network.config

    @property
    def random(self) -> bool:
        """Whether the weights are random."""
        return self.weights["sha256"] is None


def open_source(model: str, seed: int = SEED) -> Source:
    """Load what is exported; presets without weights get random ones.

    Args:
        model: shipped model, preset or folder.
        seed: of random weights.

    Raises:
        InputError: there is no such model, or its files cannot be used.
    """
    if model in PRESETS and not is_shipped(model):
        network = load_model(model, random_weights=True, seed=seed)
        points = static_points(network.config)
        weights = {"from": f"random, seed {seed}", "sha256": None}
        return Source(network=network, calibration=None, points=points, weights=weights)
    folder = find_folder(model)
    return Source(
        network=load_model(model),
        calibration=load_calibration(model),
        points=load_operating_points(model),
        weights={
            "from": model if model in PRESETS else folder.name,
            "file": WEIGHTS_FILE,
            "sha256": weights_digest(folder),
        },
    )


def check_static(config: ModelConfig, runtime: str) -> None:
    """See that a network is one that a runtime for phones takes.

    Args:
        config: of the network.
        runtime: one of :data:`STATIC_FORMATS`.

    Raises:
        InputError: it samples maps at points that it computes, and the runtime cannot.
    """
    sampled = "deformable" in (config.mixing, config.cross_attention)
    if sampled and not OPERATORS[runtime] >= SAMPLING:
        raise InputError(
            f"{config.name} needs grid_sample, which {runtime} lacks; allowed: models made for"
            " phones (mobius-p, mobius-n, mobius-s), see mobius-seg lint-export"
        )


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{field} is {value!r}; allowed: {', '.join(allowed)}")
