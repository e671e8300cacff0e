"""What ``mobius-seg pareto`` is asked for, checked before anything slow."""

import argparse
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobius_seg.bench.contenders import read_models, split
from mobius_seg.checkpoint import WEIGHTS_FILE, find_folder, is_shipped, weights_digest
from mobius_seg.config import ModelConfig
from mobius_seg.data.coco import CocoData, picture_path, read_coco
from mobius_seg.errors import InputError
from mobius_seg.export.request import FORMATS
from mobius_seg.export.schedule import Schedule, find_schedule
from mobius_seg.export.spec import is_exported
from mobius_seg.files import check_output
from mobius_seg.operating_points import NAMES
from mobius_seg.predict_arguments import check_arguments
from mobius_seg.predictor import Predictor, load
from mobius_seg.presets import PRESETS

TORCH = "torch"
RUNTIMES = (TORCH, *FORMATS)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A model at an input size with one schedule of its decoder: what an accuracy belongs to.

    Attributes:
        model: shipped model or folder, as the user wrote it.
        side: of the square input in pixels.
        schedule: operating point with its policy; adaptive only where the weights themselves run.
        runtimes: that run this schedule, of those asked for.
        config: of the model.
        weights: SHA-256 of its weight file.
        calibration: digest of its score maps; None where it has none.
        weights_mb: size of the weight file in 10^6 bytes.
    """

    model: str
    side: int
    schedule: Schedule
    runtimes: tuple[str, ...]
    config: ModelConfig
    weights: str
    calibration: str | None
    weights_mb: float

    @property
    def adaptive(self) -> bool:
        """Whether the decoder looks at each picture."""
        return self.schedule.policy.form == "adaptive"

    @property
    def label(self) -> str:
        """What tells it from the others, in a few words."""
        point, form = self.schedule.point, self.schedule.policy.form
        return f"{self.model} {self.side} {point}" + (f" ({form})" if form != point else "")


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data set that accuracy is measured on.

    Attributes:
        coco: its annotations.
        images: folder of its pictures.
        rows: indices of the pictures that count.
        facts: name, split and digests of file and pictures, and their numbers.
    """

    coco: CocoData
    images: Path
    rows: range
    facts: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """What is asked for, every name of the file."""
        return self.coco.names

    def scenes(self, count: int) -> tuple[str, ...]:
        """Paths of so many pictures, evenly over the set."""
        step = max(1, len(self.rows) // count)
        chosen = [self.coco.images[row] for row in self.rows[::step][:count]]
        return tuple(str(picture_path(image, self.images)) for image in chosen)


def check_outputs(out: Path, store: Path | None, annotations: Path) -> Path:
    """See that page and figures can be written, and are not what is read.

    Returns:
        Where the figures go: ``store``, or beside the page.

    Raises:
        InputError: one is a folder, or lies where nothing can be written, or is the annotations.
    """
    for path, option in ((out, "--out"), (store, "--json")):
        if path is not None and path.is_dir():
            raise InputError(f"{path}: is a folder; {option} names a file")
    store = store or out.with_suffix(".json")
    for path, option in ((out, "--out"), (store, "--json")):
        check_output(path, option, annotations)
    if os.path.realpath(out) == os.path.realpath(store):
        raise InputError(f"{out}: page and figures are two files; give --json another name")
    return store


def read_data(annotations: Path, images: Path, limit: int | None) -> Data:
    """Read the data set and see that it has an average precision of masks.

    Raises:
        InputError: the file cannot be used, a picture is not there, or nothing is to be found.
    """
    coco = read_coco(annotations)
    rows = range(len(coco.images))[:limit]
    if not images.is_dir():
        raise InputError(f"{images}: no such folder of pictures")
    shown = hashlib.sha256()
    for row in rows:
        image = coco.images[row]
        shown.update(f"{image.file_name}\0{picture_path(image, images).stat().st_size}\n".encode())
    wanted = [coco.annotations[i] for row in rows for i in coco.by_image[row]]
    wanted = [annotation for annotation in wanted if not annotation.crowd]
    if not wanted:
        raise InputError(
            f"{annotations}: no instance in {len(rows)} pictures, so there is no average precision"
        )
    for annotation in wanted:
        if annotation.segmentation is None:
            raise InputError(
                f"{annotations}: the annotation with id {annotation.id} has no mask; average"
                " precision of masks needs all of them"
            )
    counts = {"images": len(rows), "names": len(coco.names), "instances": len(wanted)}
    facts = coco.provenance() | {"pictures_sha256": shown.hexdigest()} | counts
    return Data(coco=coco, images=images, rows=rows, facts=facts)


def read_settings(options: argparse.Namespace) -> list[Setting]:
    """Every schedule of every model and size that is asked for; each model is loaded once.

    Raises:
        InputError: an unknown model, point or runtime, a model without weights, or files of one
            that cannot be used.
    """
    runtimes = split(options.runtimes, "--runtimes", RUNTIMES)
    points = split(options.operating_points, "--operating-points", NAMES)
    _check_models(split(options.models, "--models"))
    loaded: dict[str, Predictor] = {}
    settings: list[Setting] = []
    for model, (height, side) in dict.fromkeys(read_models(options.models, None)):
        if height != side:
            raise InputError(f"{model}@{height}x{side}: give one side, such as {model}@{side}")
        check_arguments(side, 0.0, 1, 1)
        if model not in loaded:
            loaded[model] = load(model, "cpu")
        settings += _settings(model, side, loaded[model], points, runtimes)
    if not settings:
        raise InputError("nothing to measure: give a runtime and an operating point")
    return settings


def _check_models(entries: Sequence[str]) -> None:
    """Only weights that were trained have an accuracy."""
    for entry in entries:
        model = entry.rpartition("@")[0] if "@" in entry else entry
        if model in PRESETS and not is_shipped(model):
            raise InputError(
                f"{model} has no weights in this installation, and accuracy with random ones says"
                " nothing; train it and give its folder"
            )
        if is_exported(model):
            raise InputError(f"{model}: is an exported graph; give the weights' own folder")


def _settings(
    model: str, side: int, predictor: Predictor, names: Sequence[str], runtimes: Sequence[str]
) -> Iterator[Setting]:
    """Schedules of one model at one size.

    Where a point is adaptive, its weights run that and its graphs the fixed schedule that stands
    for it: two settings.
    """
    folder, config = find_folder(model), predictor.config
    points, maps = predictor.planner.points, predictor.calibration
    weights = weights_digest(folder)
    megabytes = round((folder / WEIGHTS_FILE).stat().st_size / 1e6, 3)
    graphs = tuple(runtime for runtime in runtimes if runtime != TORCH)
    for name in names:
        policy = points.policy(name)
        if policy.form == "adaptive":
            tuned = f"adaptive, tuned on {points.conditions.get('annotations', '?')}"
            own = Schedule(point=name, policy=policy, origin=tuned)
            kinds = [(own, tuple(runtime for runtime in runtimes if runtime == TORCH))]
            kinds += [(find_schedule(config, points, name), graphs)] if graphs else []
        else:
            kinds = [(find_schedule(config, points, name), tuple(runtimes))]
        for schedule, where in kinds:
            if where:
                yield Setting(
                    model=model,
                    side=side,
                    schedule=schedule,
                    runtimes=where,
                    config=config,
                    weights=weights,
                    calibration=None if maps is None else maps.digest(),
                    weights_mb=megabytes,
                )
