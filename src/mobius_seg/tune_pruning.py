"""``mobius-seg tune-pruning``: the cheapest policy that loses no more than is allowed.

The full decoder runs once over the calib set; every candidate is then simulated on the record
(:mod:`mobius_seg.pruning_candidates`): floors for a share eps of lost true positives, with and
without stopping early, or schedules for all pictures alike. Some are really run: each time the
cheapest whose simulated loss is allowed, corrected by what the simulation promised too much of
those that were run before; where the correction leaves none, the one that should lose least.

A loss that was measured on a few hundred pictures is itself uncertain, and the cheapest of many
candidates that keep a bound is one that chance favours. So a point keeps its bound with a margin:
standard errors of the paired loss by the jackknife over groups of pictures (Efron and Stein, 1981).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from mobius_seg.data.coco import CocoData, load_sized, picture_path, read_coco
from mobius_seg.errors import InputError
from mobius_seg.evaluate.ap import MAX_DETECTIONS, ApScorer
from mobius_seg.json_values import is_number
from mobius_seg.operating_points import (
    CALIBRATION_KEY,
    FULL,
    OperatingPoint,
    OperatingPoints,
    queries_key,
)
from mobius_seg.predict_arguments import check_limit, check_size
from mobius_seg.predictor import Predictor
from mobius_seg.pruning import PruningPolicy
from mobius_seg.pruning_candidates import Candidate, candidates, static_candidates
from mobius_seg.pruning_record import ImageRecord, record_image, true_positives
from mobius_seg.receipt import Receipt
from mobius_seg.terminal import make_console, shows_progress
from mobius_seg.version import __version__

MARGIN = 0.5
"""Standard errors of a measured loss that are added to it before it is held against the bound."""
METRICS = ("ap", "recall")
FORMS = ("both", "adaptive", "static")
FAST_FACTOR = 4.0
"""The point ``fast`` may lose so many times what ``balanced`` may."""

_RUNS = 8  # candidates of one point that are really run
_ALIKE = 1.05  # costs within this factor are the same: the smaller loss decides
_BATCH = 4
_GROUPS = 10  # of pictures, each left out once for the standard error
_KEYS = {"ap": ("mask_ap", "agnostic_mask_ap"), "recall": ("agnostic_ar100",)}


def tune(
    predictor: Predictor,
    annotations: str | Path,
    images: str | Path,
    *,
    loss: float = 0.3,
    metric: str = "ap",
    form: str = "both",
    margin: float = MARGIN,
    size: int | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> OperatingPoints:
    """Find the operating points ``full``, ``balanced`` and ``fast`` of a model.

    Args:
        predictor: the model; its maps calibrate what pruning reads.
        annotations: COCO instance file of pictures that neither training nor testing uses.
        images: folder that its file names are relative to.
        loss: points that ``balanced`` may lose, in hundredths (0.3 = 0.003); ``fast`` may lose
            four times as many.
        metric: ``ap``: mask AP, with names and without (the larger loss counts); ``recall``: of
            masks, without names.
        form: ``adaptive``: floors, and stopping early, picture by picture; ``static``: the same
            numbers of queries and layers for every picture, which fixed graphs can hold; ``both``:
            adaptive points, and static ones beside them for graphs.
        margin: so many standard errors of the measured loss are added to it; 0 takes it as it is.
        size: longest side of the input in pixels, default the model's own.
        limit: only the first so many pictures.
        progress: show bars on standard error.

    Raises:
        InputError: an argument, the file or a picture cannot be used, or no instance has a mask.
    """
    _check(metric, form, margin, loss)
    size = predictor.config.input_size if size is None else size
    check_size(size)
    coco, folder, rows = _open(annotations, images, limit, 2 if margin else 1)
    run = _Runs(predictor, coco, folder, rows, size, progress, metric, margin)
    records = run.records()
    run.measure(PruningPolicy(), FULL)
    bounds = {"balanced": loss, "fast": loss * FAST_FACTOR}
    graphs: dict[str, OperatingPoint] = {}
    if form != "adaptive":
        found = static_candidates(records, predictor, metric)
        graphs = {name: run.cheapest(found, most, name) for name, most in bounds.items()}
    points = {FULL: run.point(PruningPolicy())}
    if form == "static":
        points, graphs = points | graphs, {}
    else:
        found = candidates(records, predictor, metric)
        points |= {name: run.cheapest(found, most, name) for name, most in bounds.items()}
    asked = {"metric": metric, "loss": loss, "form": form, "margin": margin}
    return OperatingPoints(points, asked | run.conditions(), graphs=graphs)


def _check(metric: str, form: str, margin: float, loss: float) -> None:
    """Reject arguments of :func:`tune` that mean nothing."""
    for what, value, known in (("metric", metric, METRICS), ("form", form, FORMS)):
        if value not in known:
            raise InputError(f"{what} is {value!r}; allowed: {', '.join(known)}")
    if not is_number(margin) or not 0 <= margin <= 10:
        raise InputError(f"margin is {margin!r:.40}; allowed: 0 to 10 standard errors")
    if not is_number(loss) or not 0 <= loss <= 100:
        raise InputError(f"loss is {loss!r:.40}; allowed: 0 to 100 points")


def _open(
    annotations: str | Path, images: str | Path, limit: int | None, least: int
) -> tuple[CocoData, Path, range]:
    """The data set of :func:`tune`, folder and rows, checked: every loss can be measured on it.

    Args:
        annotations: see there.
        images: likewise.
        limit: likewise.
        least: pictures that there must be.
    """
    check_limit(limit)
    coco, folder = read_coco(annotations), Path(images)
    coco.check_held_out("tuning")
    rows = range(len(coco.images))[:limit]
    if len(rows) < least:
        raise InputError(
            f"{annotations}: of one picture a loss has no standard error; allowed: two pictures or"
            " more, or margin 0"
        )
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of pictures")
    for row in rows:
        picture_path(coco.images[row], folder)
        for annotation in (coco.annotations[i] for i in coco.by_image[row]):
            if annotation.segmentation is None and not annotation.crowd:
                raise InputError(
                    f"{annotations}: annotation id {annotation.id} has no mask, and without it"
                    " no loss can be measured; allowed: a mask for every object"
                )
    return coco, folder, rows


@dataclass(frozen=True)
class Measurement:
    """What a policy did on the data set.

    Attributes:
        figures: AP, recall (fractions of 1) and mean cost.
        parts: AP and recall with one group of pictures left out, group by group.
    """

    figures: dict[str, float | None]
    parts: tuple[dict[str, float | None], ...] = ()


def losses(
    full: Measurement, pruned: Measurement, metric: str, margin: float
) -> tuple[float, float]:
    """What was lost, of the figure of the metric that stands worst with the margin added.

    Args:
        full: of the unpruned decoder.
        pruned: of the policy, on the same pictures.
        metric: one of :data:`METRICS`.
        margin: standard errors.

    Returns:
        Loss and its standard error in points (hundredths). With g groups and d_i the loss without
        group i, the squared error is (g - 1) / g times the sum of (d_i - mean d)^2; 0 without
        parts.
    """

    def lost(key: str) -> tuple[float, float]:
        whole = _points(full.figures, pruned.figures, key)
        parts = [_points(a, b, key) for a, b in zip(full.parts, pruned.parts, strict=True)]
        return whole, float(np.sqrt(max(len(parts) - 1, 0) * np.var(parts))) if parts else 0.0

    return max(map(lost, _KEYS[metric]), key=lambda found: found[0] + margin * found[1])


def _points(
    full: Mapping[str, float | None], pruned: Mapping[str, float | None], key: str
) -> float:
    """Points (hundredths) of one figure that were lost."""
    return 100 * ((full[key] or 0.0) - (pruned[key] or 0.0))


class _Runs:
    """Really runs policies over the data set."""

    def __init__(
        self,
        predictor: Predictor,
        coco: CocoData,
        folder: Path,
        rows: Sequence[int],
        size: int,
        progress: bool,
        metric: str,
        margin: float,
    ) -> None:
        self._predictor, self._coco, self._folder = predictor, coco, folder
        self._rows, self._size, self._progress = rows, size, progress
        self._metric, self._margin = metric, margin
        self._done: dict[PruningPolicy, Measurement] = {}

    def records(self) -> list[ImageRecord]:
        """The full decoder's, picture by picture.

        Raises:
            InputError: it finds nothing.
        """
        records = [
            record_image(self._predictor, self._coco, self._folder, row, self._size)
            for row in _track(self._rows, "full decoder", self._progress)
        ]
        if not any(len(true_positives(record)) for record in records):
            raise InputError(
                f"{self._coco.path}: the full decoder finds none of its instances (mask IoU 0.5),"
                " so there is nothing to tune on"
            )
        return records

    def cheapest(self, found: Sequence[Candidate], most: float, name: str) -> OperatingPoint:
        """The cheapest policy that was run, for any point, whose loss and margin are allowed.

        That is ``full`` where nothing else is. Of policies that cost about the same the one that
        loses least.
        """
        gaps: list[float] = []  # measured loss with its margin, less the simulated one
        for _ in range(_RUNS):
            gap = max(0.0, float(np.mean(gaps))) if gaps else 0.0
            least = min(map(self._cost, self._allowed(most)))
            cheaper = [
                one
                for one in found
                if one.policy not in self._done and one.loss <= most and one.decoder_gmac < least
            ]
            if not cheaper:
                break
            promising = [one for one in cheaper if one.loss + gap <= most]
            dear = _ALIKE * promising[0].decoder_gmac if promising else np.inf
            alike = [one for one in promising or cheaper if one.decoder_gmac <= dear]
            candidate = min(alike, key=lambda one: one.loss)
            self.measure(candidate.policy, name)
            gaps.append(self._loss(candidate.policy) - candidate.loss)
        allowed = self._allowed(most)
        dear = _ALIKE * min(map(self._cost, allowed))
        return self.point(min((one for one in allowed if self._cost(one) <= dear), key=self._loss))

    def point(self, policy: PruningPolicy) -> OperatingPoint:
        """A policy that was run, with what was measured."""
        loss, error = self._lost(policy)
        figures = self._done[policy].figures
        return OperatingPoint(policy, figures | {"loss": loss, "loss_error": error})

    def conditions(self) -> dict[str, Any]:
        """What was run, on what, and with which model."""
        maps = self._predictor.calibration
        return self._coco.provenance() | {
            "images": len(self._rows),
            "names": len(self._coco.names),
            "size": self._size,
            "threshold": 0.0,
            "model": self._predictor.config.name,
            CALIBRATION_KEY: None if maps is None else maps.digest(),
            "runs": self.summary(),
            "version": __version__,
            "torch": torch.__version__,
        }

    def summary(self) -> list[list[float]]:
        """Cost of the decoder in GMAC, loss and its error in points of all that was run."""
        return sorted(
            [round(value, 4) for value in (self._cost(policy), *self._lost(policy))]
            for policy in self._done
        )

    def _allowed(self, most: float) -> list[PruningPolicy]:
        """Of everything that was run, what loses no more than is allowed."""
        return [policy for policy in self._done if self._loss(policy) <= most + 1e-9]

    def _loss(self, policy: PruningPolicy) -> float:
        """Points that it lost, with the margin."""
        loss, error = self._lost(policy)
        return loss + self._margin * error

    def _lost(self, policy: PruningPolicy) -> tuple[float, float]:
        """Points that it lost, and their standard error."""
        full = self._done[PruningPolicy()]
        return losses(full, self._done[policy], self._metric, self._margin)

    def _cost(self, policy: PruningPolicy) -> float:
        """Mean GMAC of its decoder."""
        return self._done[policy].figures["decoder_gmac"] or 0.0

    def measure(self, policy: PruningPolicy, name: str) -> None:
        """Run a policy at threshold 0 unless that was done: AP, recall and mean cost."""
        if policy in self._done:
            return
        scorer = ApScorer(self._coco, self._rows)
        costs: list[dict[str, float]] = []
        starts = range(0, len(self._rows), _BATCH)
        for start in _track(starts, f"running {name}", self._progress):
            rows = self._rows[start : start + _BATCH]
            pictures = [
                load_sized(self._coco.images[row], self._folder, self._coco.path) for row in rows
            ]
            answers = self._predictor.predict(
                pictures,
                names=list(self._coco.names),
                size=self._size,
                threshold=0.0,
                max_instances=MAX_DETECTIONS,
                names_per_instance=MAX_DETECTIONS,
                batch_size=_BATCH,
                operating_point=policy,
            )
            for row, found in zip(rows, answers, strict=True):
                scorer.add(
                    row,
                    found.rles,
                    found.boxes_xyxy,
                    found.scores,
                    found.names,
                    found.instance_ids,
                )
                assert found.receipt is not None
                costs.append(found.receipt.gmac | self._counts(found.receipt))
        measured = _accuracy(scorer)
        for key, label in (
            ("transformer_decoder", "decoder_gmac"),
            ("total", "gmac"),
            ("layers", "layers"),
            ("queries", "queries"),
            *((key, key) for key in map(queries_key, range(self._stages))),
        ):
            measured[label] = float(np.mean([cost[key] for cost in costs]))
        parts = []
        if self._margin:
            groups = min(_GROUPS, len(self._rows))
            parts = [scorer.without(self._rows[i::groups]) for i in range(groups)]
        self._done[policy] = Measurement(measured, tuple(map(_accuracy, parts)))

    @property
    def _stages(self) -> int:
        return self._predictor.config.decoder_layers + 1

    def _counts(self, receipt: Receipt) -> dict[str, float]:
        """Layers, queries of a stage that ran, and queries of every stage (0: it did not run)."""
        ran = [*receipt.queries, *[0] * (self._stages - len(receipt.queries))]
        counts = {"layers": float(receipt.layers), "queries": float(np.mean(receipt.queries))}
        return counts | {queries_key(stage): float(count) for stage, count in enumerate(ran)}


def _accuracy(scorer: ApScorer) -> dict[str, float | None]:
    """What must not fall."""
    figures = scorer.named(boxes=False) | scorer.agnostic(boxes=False)
    return {key: figures[key] for keys in _KEYS.values() for key in keys}


def _track(steps: Sequence[int], text: str, show: bool) -> Any:
    """The steps, with a bar on standard error."""
    console = make_console(stderr=True)
    hidden = not (show and shows_progress(console))
    return track(steps, text, console=console, disable=hidden, transient=True)
