"""``calibration.json``: score maps and precision tables of a model, for each mode."""

import hashlib
import json
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np

from mobius_seg.errors import InputError
from mobius_seg.json_values import is_number
from mobius_seg.posthoc import REFIT, ScoreMaps, parse_object, read_field

FORMAT = 1
NAMES, EVERYTHING = "names", "everything"
MODES = (NAMES, EVERYTHING)


@dataclass(frozen=True, kw_only=True)
class PrecisionTable:
    """Precision of what the last stage finds at and above each score, on the calibration set.

    Attributes:
        thresholds: strictly increasing mapped scores.
        precision: share of the detections at or above each that match an object of their name with
            a mask IoU (box IoU where there are no masks) of at least 0.5.
    """

    thresholds: tuple[float, ...]
    precision: tuple[float, ...]

    def __post_init__(self) -> None:
        """Reject what is no table.

        Raises:
            InputError: names the field and what is allowed.
        """
        for name, values in (("thresholds", self.thresholds), ("precision", self.precision)):
            if not all(is_number(value) and 0 <= value <= 1 for value in values):
                raise InputError(f"{name}: allowed: numbers from 0 to 1")
        if len(self.thresholds) != len(self.precision) or not self.thresholds:
            raise InputError("thresholds and precision must be equally long, and not empty")
        if not all(a < b for a, b in pairwise(self.thresholds)):
            raise InputError("thresholds must strictly increase")

    def threshold_for(self, precision: object) -> float:
        """Lowest score threshold that reaches a precision.

        Args:
            precision: above 0 to 1.

        Raises:
            InputError: none does, or it is no such number.
        """
        wanted = _share(precision)
        if not wanted > 0:
            raise InputError(f"precision is {precision!r:.40}; allowed: above 0 to 1")
        for score, value in zip(self.thresholds, self.precision, strict=True):
            if value >= wanted:
                return score
        best = max(self.precision)
        raise InputError(
            f"no threshold reaches a precision of {precision}; the highest on the calibration set"
            f" is {best:.3f}"
        )

    def expected_precision(self, score: object) -> float:
        """Precision at the threshold ``score``; above all thresholds, that of the highest.

        Args:
            score: mapped, 0 to 1.

        Raises:
            InputError: it is no such number.
        """
        at = _share(score)
        if math.isnan(at):
            raise InputError(f"score is {score!r:.40}; allowed: 0 to 1")
        for threshold, value in zip(self.thresholds, self.precision, strict=True):
            if threshold >= at:
                return value
        return self.precision[-1]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What ``calibration.json`` holds.

    Attributes:
        maps: score maps by mode (``names``, which expressions use too, and ``everything``).
        tables: precision tables by mode.
        weights_sha256: of the weight file that they were fitted on.
        fitted_on: conditions of the fit, for the reader.
    """

    maps: dict[str, ScoreMaps]
    tables: dict[str, PrecisionTable]
    weights_sha256: str
    fitted_on: dict[str, Any]

    def table(self, mode: object) -> PrecisionTable:
        """The precision table of a mode.

        Raises:
            InputError: there is no such mode.
        """
        if mode not in MODES:
            raise InputError(f"mode {mode!r} is unknown; allowed: {', '.join(MODES)}")
        return self.tables[str(mode)]

    def digest(self) -> str:
        """SHA-256 of :meth:`to_json`: operating points belong to the maps they were tuned with."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The file's text."""
        modes = {
            mode: self.maps[mode].as_dict()
            | {
                "precision": {
                    "thresholds": list(self.tables[mode].thresholds),
                    "precision": list(self.tables[mode].precision),
                }
            }
            for mode in MODES
        }
        values = {
            "format": FORMAT,
            "weights_sha256": self.weights_sha256,
            "fitted_on": self.fitted_on,
            "modes": modes,
        }
        return json.dumps(values, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "calibration.json") -> Self:
        """Read what :meth:`to_json` wrote.

        Args:
            text: the JSON text.
            where: name used in error messages.

        Raises:
            InputError: it is something else.
        """
        values = parse_object(text, where)
        if read_field(values, "format", int, where) != FORMAT:
            raise InputError(
                f"{where}: format is {values['format']!r}; this version reads {FORMAT}"
            )
        modes = read_field(values, "modes", dict, where)
        maps, tables = {}, {}
        for mode in MODES:
            place = f"{where}: mode {mode!r}"
            entry = read_field(modes, mode, dict, where)
            maps[mode] = ScoreMaps.from_dict(entry, place)
            table = read_field(entry, "precision", dict, place)
            try:
                tables[mode] = PrecisionTable(
                    thresholds=tuple(read_field(table, "thresholds", list, place)),
                    precision=tuple(read_field(table, "precision", list, place)),
                )
            except InputError as error:
                raise InputError(_placed(place, error)) from None
        facts = read_field(values, "fitted_on", dict, where)
        try:
            json.dumps(facts, allow_nan=False)
        except ValueError:
            raise InputError(
                f"{where}: field 'fitted_on' holds a number that is not finite; {REFIT}"
            ) from None
        return cls(
            maps=maps,
            tables=tables,
            weights_sha256=read_field(values, "weights_sha256", str, where),
            fitted_on=facts,
        )

    def check_stages(self, stages: int, where: str) -> None:
        """See that this has a map for every stage of a network.

        Args:
            stages: of the network, L + 1.
            where: name used in error messages.

        Raises:
            InputError: it was fitted on a deeper or a shallower one.
        """
        for mode, maps in self.maps.items():
            if len(maps.stages) != stages:
                raise InputError(
                    f"{where}: mode {mode!r} has maps of {len(maps.stages)} stages, but the model"
                    f" has {stages}; {REFIT}"
                )

    def check_fit(self, stages: int, weights_sha256: str, where: str) -> None:
        """See that this belongs to a model.

        Args:
            stages: of the model, L + 1.
            weights_sha256: of its weight file.
            where: name used in error messages.

        Raises:
            InputError: it was fitted on another one.
        """
        self.check_stages(stages, where)
        if self.weights_sha256 != weights_sha256:
            raise InputError(f"{where}: was fitted on other weights; {REFIT}")


def _share(value: object) -> float:
    """A number in 0..1, as Python's or NumPy's scalars hold it; NaN for anything else."""
    scalar = value.item() if isinstance(value, np.number) else value
    return float(scalar) if is_number(scalar) and 0 <= scalar <= 1 else math.nan


def _placed(place: str, error: InputError) -> str:
    """An error's message that begins with the place."""
    return str(error) if str(error).startswith(place) else f"{place}: {error}"


def fitted(calibration: Calibration | None, model: str) -> Calibration:
    """The calibration of a model, which must be there.

    Raises:
        InputError: the model is not calibrated.
    """
    if calibration is None:
        raise InputError(f"model {model!r} is not calibrated: run mobius-seg calibrate first")
    return calibration
