"""Run a model over a COCO data set and score what it says.

Three ways to ask (modes), three sets of figures, all fractions of 1 and None where undefined
(nothing to find, or no masks in the file):

* ``names``: every name of the annotation file is the vocabulary. ``mask_`` and ``box_`` with
  ``ap``, ``ap50``, ``ap75``, ``ap_small``, ``ap_medium``, ``ap_large`` and ``ar100``, over the 100
  pairs of an instance and a name that score highest in each picture, as DETR's line is scored (an
  instance may stand under several names); and from the same run, each instance once and names
  ignored, ``agnostic_mask_`` and ``agnostic_box_`` with the same, the recall of masks as
  ``agnostic_ar100``.
* ``everything``: no names are given; the agnostic figures.
* ``expressions``: each expression of the file beside the annotations, answered by its best
  instance. ``p_at_50``, ``ciou``, and the number of ``expressions``.

With each come ``images`` and ``names`` (how many pictures were shown and names asked), the
``conditions``, and ``seconds_per_image``: the wall time of prediction, from the decoded picture to
instances with run lengths at its own size (resizing, network, masks, text vectors unless cached),
per picture, or per expression in that mode. Reading files, scoring and one untimed call to warm up
are not in it.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mobius_seg.data.coco import CocoData, load_sized, picture_path, read_coco
from mobius_seg.data.referring import (
    ReferringExpression,
    default_expressions_path,
    read_expressions,
)
from mobius_seg.errors import InputError
from mobius_seg.evaluate.ap import MAX_DETECTIONS, ApScorer, engine
from mobius_seg.evaluate.referring import ReferringScorer
from mobius_seg.files import write_text
from mobius_seg.option_kinds import MAX_THREADS
from mobius_seg.predict_arguments import check_extent
from mobius_seg.terminal import make_console, shows_progress
from mobius_seg.version import __version__

if TYPE_CHECKING:
    from mobius_seg.instances import Instances
    from mobius_seg.predictor import Predictor
    from mobius_seg.pruning import PruningPolicy

MODES = ("names", "everything", "expressions")
BATCH = 4
"""Pictures given to the predictor at once."""


def evaluate(
    predictor: "Predictor",
    annotations: str | Path,
    images: str | Path,
    *,
    mode: str = "names",
    expressions: str | Path | None = None,
    size: int | None = None,
    threads: int | None = None,
    limit: int | None = None,
    batch: int = BATCH,
    operating_point: "str | PruningPolicy | None" = None,
    recognise: bool | None = None,
    seen: "Callable[[Instances], None] | None" = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Score a model on a COCO instance data set.

    At threshold 0, with at most 100 instances, or pairs, a picture. All files are checked first.

    Args:
        predictor: what :func:`mobius_seg.load` returns.
        annotations: COCO instance file.
        images: folder that its file names are relative to.
        mode: ``names``, ``everything`` or ``expressions``.
        expressions: file of expressions, default ``expressions.json`` beside ``annotations``;
            only with that mode.
        size: input size in pixels, default the model's own.
        threads: CPU threads of torch during the run, default as they are.
        limit: only the first so many pictures.
        batch: pictures, or expressions with theirs, given to the predictor at once.
        operating_point: as in ``predict``.
        recognise: as in ``predict``; True with names alone.
        seen: told of each answer that is scored, in order.
        progress: show a bar on standard error.

    Returns:
        The figures of the module's text, ready for JSON.

    Raises:
        InputError: an argument, the annotation file, the expressions or a picture cannot be used.
    """
    _check_mode(mode, expressions, recognise)
    _check_counts(threads=threads, batch=batch)
    check_extent(size, limit)
    coco = read_coco(annotations)
    rows = range(len(coco.images))[:limit]
    chosen, asked = _expressions(coco, expressions, rows) if mode == "expressions" else (rows, [])
    ask = _Asking(size=size, batch=batch, point=operating_point, recognise=recognise, seen=seen)
    run = _Run(predictor, coco, Path(images), ask, progress=progress)
    run.check_pictures(chosen)
    with _torch_threads(threads) as used_threads:
        metrics = run.score(mode, chosen, asked)
    conditions = {"mode": mode, "batch": batch, "threads": used_threads}
    return metrics | {
        "images": len(chosen),
        "names": len(coco.names) if mode == "names" else 0,
        "seconds_per_image": run.seconds_per_image,
        "conditions": conditions | _conditions(predictor, size),
    }


def write_metrics(path: str | Path, metrics: dict[str, Any]) -> None:
    """Write what :func:`evaluate` returned as JSON, whole or not at all.

    Raises:
        InputError: the file cannot be written.
        ValueError: a figure is NaN or infinite (a bug of ours, never written).
    """
    text = json.dumps(metrics, indent=2, allow_nan=False) + "\n"
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


@dataclass(frozen=True, kw_only=True)
class _Asking:
    """How the predictor is asked, and who is told of its answers."""

    size: int | None
    batch: int
    point: "str | PruningPolicy | None"
    recognise: bool | None
    seen: "Callable[[Instances], None] | None"


class _Run:
    """One pass over a data set: asks the predictor, keeps the time."""

    def __init__(
        self,
        predictor: "Predictor",
        coco: CocoData,
        folder: Path,
        asking: _Asking,
        *,
        progress: bool,
    ) -> None:
        self._predictor = predictor
        self._coco = coco
        self._folder = folder
        self._asking = asking
        self._progress = progress
        self.seconds = 0.0
        self.calls = 0

    @property
    def seconds_per_image(self) -> float | None:
        """Of the timed calls."""
        return self.seconds / self.calls if self.calls else None

    def score(
        self, mode: str, chosen: Sequence[int], asked: Sequence[ReferringExpression]
    ) -> dict[str, Any]:
        """Figures of a mode: of pictures, or of expressions."""
        if mode == "expressions":
            return self.score_expressions(asked)
        return self.score_instances(chosen, named=mode == "names")

    def check_pictures(self, chosen: Sequence[int]) -> None:
        """Every picture is there."""
        if not self._folder.is_dir():
            raise InputError(f"{self._folder}: no such folder of pictures")
        for image in chosen:
            picture_path(self._coco.images[image], self._folder)

    def score_instances(self, chosen: Sequence[int], *, named: bool) -> dict[str, float | None]:
        """Figures of names and everything."""
        names = list(self._coco.names) if named else None
        scorer = ApScorer(self._coco, chosen)
        for start in self._track(range(0, len(chosen), self._asking.batch), "batches of pictures"):
            rows = chosen[start : start + self._asking.batch]
            pictures = [self._picture(row) for row in rows]
            found = self._predict(pictures, names=names)
            for row, instances in zip(rows, found, strict=True):
                self._check_answer(row, instances)
                scorer.add(
                    row,
                    instances.rles,
                    instances.boxes_xyxy,
                    instances.scores,
                    instances.names if named else None,
                    instances.instance_ids,
                )
        return (scorer.named() if named else {}) | scorer.agnostic()

    def score_expressions(self, asked: Sequence[ReferringExpression]) -> dict[str, Any]:
        """Figures of expressions; a picture is read once for all of its own."""
        for expression in asked:
            meant = self._coco.annotations[expression.annotation]
            if meant.segmentation is None:
                raise InputError(
                    f"{self._coco.path}: the annotation with id {meant.id} has no mask; allowed: "
                    f"expressions of instances with masks"
                )
        scorer = ReferringScorer()
        ordered = sorted(asked, key=lambda expression: expression.image)
        row, picture = -1, np.zeros((0, 0, 3), np.uint8)
        for start in self._track(
            range(0, len(ordered), self._asking.batch), "batches of expressions"
        ):
            some, pictures = ordered[start : start + self._asking.batch], []
            for expression in some:
                if expression.image != row:
                    row, picture = expression.image, self._picture(expression.image)
                pictures.append(picture)
            answers = self._predict(pictures, texts=[expression.text for expression in some])
            for expression, found in zip(some, answers, strict=True):
                self._check_answer(expression.image, found)
                best = int(np.argmax(found.scores)) if len(found.rles) else None
                truth = self._coco.rle(expression.annotation)
                assert truth is not None
                scorer.add(None if best is None else found.rles[best], truth)
        return {**scorer.metrics(), "expressions": scorer.expressions}

    def _predict(
        self,
        pictures: list[NDArray[np.uint8]],
        *,
        names: list[str] | None = None,
        texts: list[str] | None = None,
    ) -> "list[Instances]":
        """One timed call; the first of a run is made twice, so that warming up is not timed."""

        def ask(count: int) -> "list[Instances]":
            return self._predictor.predict(
                pictures[:count],
                names=names,
                expression=None if texts is None else texts[:count],
                size=self._asking.size,
                threshold=0.0,
                max_instances=MAX_DETECTIONS,
                names_per_instance=MAX_DETECTIONS if names is not None else 1,
                batch_size=self._asking.batch,
                operating_point=self._asking.point,
                recognise=self._asking.recognise,
            )

        if not self.calls:
            ask(1)
        begin = time.perf_counter()
        found = ask(len(pictures))
        self.seconds += time.perf_counter() - begin
        self.calls += len(pictures)
        if self._asking.seen is not None:
            for one in found:
                self._asking.seen(one)
        return found

    def _picture(self, row: int) -> NDArray[np.uint8]:
        """A picture as decoded, of the size that the file says."""
        return load_sized(self._coco.images[row], self._folder, self._coco.path)

    def _check_answer(self, row: int, found: "Instances") -> None:
        """Masks of another size than the picture's would be compared out of bounds."""
        size = [self._coco.images[row].height, self._coco.images[row].width]
        assert all(list(rle["size"]) == size for rle in found.rles)

    def _track(self, steps: range, unit: str) -> Iterator[int]:
        """The steps, with a bar on standard error."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        console = make_console(stderr=True)
        hidden = not (self._progress and shows_progress(console))
        with Progress(*columns, console=console, disable=hidden) as bar:
            yield from bar.track(steps, total=len(steps), description=unit)


def _expressions(
    coco: CocoData, path: str | Path | None, rows: Sequence[int]
) -> tuple[Sequence[int], list[ReferringExpression]]:
    """Those of the pictures, with the pictures that have any."""
    found = read_expressions(path or default_expressions_path(coco.path), coco)
    asked = [expression for expression in found if expression.image in rows]
    return sorted({expression.image for expression in asked}), asked


def _conditions(predictor: "Predictor", size: int | None) -> dict[str, Any]:
    """What else the figures were taken with."""
    return {
        "model": predictor.config.name,
        "size": size or predictor.config.input_size,
        "device": str(predictor.device),
        "version": __version__,
        "torch": torch.__version__,
        "evaluator": engine()[2],
    }


def _check_mode(mode: str, expressions: str | Path | None, recognise: bool | None) -> None:
    """Refuse what cannot be meant in a mode."""
    if mode not in MODES:
        raise InputError(f"mode {mode!r} is unknown; allowed: {', '.join(MODES)}")
    if expressions is not None and mode != "expressions":
        raise InputError(f"expressions are not used in mode {mode!r}; allowed: mode 'expressions'")
    if recognise and mode != "names":
        raise InputError(f"recognise is for names; allowed in mode {mode!r}: False")


def _check_counts(**counts: int | None) -> None:
    """Refuse numbers that cannot be meant."""
    for name, value in counts.items():
        if value is not None and (type(value) is not int or value < 1):
            raise InputError(f"{name} is {value!r}; allowed: a whole number of at least 1")
        if name == "threads" and value is not None and value > MAX_THREADS:
            raise InputError(f"threads is {value!r:.40}; allowed: up to {MAX_THREADS}")


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[int]:
    """Set torch's CPU threads for a while; yields their number."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
