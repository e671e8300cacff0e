"""Which queries go on after each stage of the decoder, and when to stop: the policy, as data.

A stage is the query selection (0) or a decoder layer (1..L). After each, a policy looks at one
calibrated confidence per query (:func:`mobius_seg.calibration.confidence` through the model's maps)
and says how many of the best queries go on. Three forms, which may be combined:

* *static*: at most ``keep[l]`` queries enter layer l + 1, at most ``layers`` layers run;
* *adaptive*: only queries go on whose confidence lies above the floor of the stage. The floor is
  learned: of the queries that end as true positives at or above the asked threshold, at most a
  share eps had a lower confidence at that stage. The decoder stops when what is left is confident
  and no longer changes;
* *budget*: a text such as ``2.5gmac``, which :mod:`mobius_seg.budget` solves into ``keep`` and
  ``layers``.

Shapes: Q queries of one image.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
from torch import Tensor

from mobius_seg.errors import InputError
from mobius_seg.json_values import is_number, parse_json


class StageMaps(Protocol):
    """Anything that turns a stage's raw confidence into a calibrated one, never losing a rank."""

    def apply(self, stage: int, scores: Tensor) -> Tensor:
        """Calibrated scores of a stage (0 = selection), of the same shape."""


class IdentityMaps:
    """The raw confidence itself, for models without fitted maps."""

    def apply(self, stage: int, scores: Tensor) -> Tensor:
        """The scores as they are."""
        return scores


Form = Literal["full", "static", "adaptive"]


@dataclass(frozen=True, kw_only=True)
class PruningPolicy:
    """What is pruned; the default prunes nothing.

    Attributes:
        keep: queries that enter layer 1, 2, ... at most (the last entry repeats); empty = all.
        layers: layers that run at most; None = all.
        thresholds: ascending score thresholds at which the floors are stated.
        floors: for each stage from the selection on, the lowest confidence that goes on, one value
            for each entry of ``thresholds``; stages without an entry prune nothing.
        least: queries that always go on, whatever their confidence (k_min).
        settle: stop when the change of a layer is at most this (:func:`change`); None = never.
        sure: and the kept queries' confidence, weighted by itself, is at least this.
    """

    keep: tuple[int, ...] = ()
    layers: int | None = None
    thresholds: tuple[float, ...] = ()
    floors: tuple[tuple[float, ...], ...] = ()
    least: int = 1
    settle: float | None = None
    sure: float = 0.0

    def __post_init__(self) -> None:
        """Reject what cannot be meant.

        Raises:
            InputError: names the field, the value and what is allowed.
        """
        for name in ("keep", "thresholds", "floors"):
            self._require(_listed(getattr(self, name)), name, "a tuple, of one entry too")
        self._require(all(_whole(k, 1) for k in self.keep), "keep", "whole numbers from 1")
        self._require(self.layers is None or _whole(self.layers, 0), "layers", "0 or more, or None")
        self._require(_whole(self.least, 1), "least", "a whole number from 1")
        ascending = all(is_number(t) for t in self.thresholds) and sorted(set(self.thresholds)) == [
            *self.thresholds
        ]
        self._require(ascending, "thresholds", "ascending finite numbers")
        fits = all(_listed(row) and len(row) == len(self.thresholds) > 0 for row in self.floors)
        self._require(
            fits and all(is_number(floor) for row in self.floors for floor in row),
            "floors",
            "one finite number for each of thresholds, for each stage",
        )
        settles = self.settle is None or (is_number(self.settle) and self.settle >= 0)
        self._require(settles, "settle", "a number from 0, or None")
        self._require(is_number(self.sure), "sure", "a finite number")

    @classmethod
    def static(cls, keep: Sequence[int] = (), layers: int | None = None) -> Self:
        """Fixed shapes: the same number of queries and layers for every image."""
        return cls(keep=tuple(keep) if _listed(keep) else keep, layers=layers)  # type: ignore[arg-type]

    @property
    def form(self) -> Form:
        """``full``: nothing is pruned; ``adaptive``: it depends on the image; else ``static``."""
        if self.floors or self.settle is not None:
            return "adaptive"
        return "full" if not self.keep and self.layers is None else "static"

    def cap(self, layer: int, queries: int) -> int:
        """Most queries that may enter ``layer`` (from 1) where ``queries`` are there."""
        return min(queries, self.keep[min(layer, len(self.keep)) - 1]) if self.keep else queries

    def depth(self, layers: int) -> int:
        """Layers that run at most in a decoder of ``layers``."""
        return layers if self.layers is None else min(layers, self.layers)

    def floor(self, stage: int, threshold: float) -> float:
        """Lowest confidence that goes on after ``stage``, where ``threshold`` is asked for."""
        if stage >= len(self.floors):
            return -math.inf
        return float(np.interp(threshold, self.thresholds, self.floors[stage]))

    def counts(self, stage: int, confidence_BQ: Tensor, threshold: float) -> list[int]:
        """How many of the most confident queries of each image enter the next layer.

        Args:
            stage: that has just run, 0 = the selection.
            confidence_BQ: calibrated confidence of the queries that ran it.
            threshold: lowest score that the caller returns.
        """
        batch, queries = confidence_BQ.shape
        most = self.cap(stage + 1, queries)
        floor = self.floor(stage, threshold)
        if floor == -math.inf:
            return [most] * batch
        reach: list[int] = (confidence_BQ >= floor).sum(1).tolist()
        return [min(most, max(count, self.least)) for count in reach]

    def settled(self, confidence_Q: Tensor, change_of_image: float) -> bool:
        """Whether the decoder may stop.

        Args:
            confidence_Q: of the queries that would go on.
            change_of_image: :func:`change` between the last two stages.
        """
        if self.settle is None or change_of_image > self.settle:
            return False
        weight = confidence_Q.clamp(min=1e-6)
        return bool((weight * confidence_Q).sum() / weight.sum() >= self.sure)

    def to_dict(self) -> dict[str, Any]:
        """The policy as JSON-ready values, one key per field."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    def to_json(self) -> str:
        """The policy as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: object, where: str = "policy") -> Self:
        """Read what :meth:`to_dict` wrote.

        Raises:
            InputError: a field is unknown, missing or of a wrong kind.
        """
        if not isinstance(values, dict):
            raise InputError(f"{where}: expected a JSON object, got {type(values).__name__}")
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known), key=str)
        for key in [*unknown, *sorted(set(known) - set(values))]:
            problem = "is missing" if key in known else "is unknown"
            raise InputError(f"{where}: field {key!r} {problem}; allowed: {', '.join(known)}")
        for key in ("keep", "thresholds", "floors"):
            if not isinstance(values[key], list):
                raise InputError(f"{where}: field {key!r} is {values[key]!r:.60}, expected a list")
        if not all(isinstance(row, list) for row in values["floors"]):
            raise InputError(f"{where}: field 'floors' must be a list of lists")
        lists = {"keep": tuple(values["keep"]), "thresholds": tuple(values["thresholds"])}
        try:
            return cls(**{**values, **lists, "floors": tuple(map(tuple, values["floors"]))})
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    @classmethod
    def from_json(cls, text: str, where: str = "policy") -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            InputError: the text is not JSON or no policy.
        """
        try:
            values = parse_json(text)
        except ValueError as error:
            raise InputError(f"{where}: not valid JSON ({error})") from None
        return cls.from_dict(values, where)

    def _require(self, condition: bool, field: str, allowed: str) -> None:
        if not condition:
            value = getattr(self, field)
            raise InputError(f"PruningPolicy.{field} is {value!r:.80}; allowed: {allowed}")


def change(
    confidence_Q: Tensor, before_Q: Tensor, boxes_Q4: Tensor, boxes_before_Q4: Tensor
) -> float:
    """How much a layer changed an image's queries, weighted by their confidence; 0 = nothing.

    Of each query: the step of its confidence, plus 1 - IoU of its box with the box before.

    Args:
        confidence_Q: calibrated confidence after the layer.
        before_Q: that of the same queries after the stage before.
        boxes_Q4: cxcywh after the layer.
        boxes_before_Q4: cxcywh after the stage before.
    """
    low, high = boxes_Q4[:, :2] - boxes_Q4[:, 2:] / 2, boxes_Q4[:, :2] + boxes_Q4[:, 2:] / 2
    low_b = boxes_before_Q4[:, :2] - boxes_before_Q4[:, 2:] / 2
    high_b = boxes_before_Q4[:, :2] + boxes_before_Q4[:, 2:] / 2
    shared_Q = (high.minimum(high_b) - low.maximum(low_b)).clamp(min=0).prod(-1)
    total_Q = boxes_Q4[:, 2:].prod(-1) + boxes_before_Q4[:, 2:].prod(-1) - shared_Q
    moved_Q = 1 - shared_Q / total_Q.clamp(min=1e-9)
    weight_Q = confidence_Q.clamp(min=1e-6)
    step_Q = (confidence_Q - before_Q).abs() + moved_Q
    return float((weight_Q * step_Q).sum() / weight_Q.sum())


def _listed(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _whole(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low
