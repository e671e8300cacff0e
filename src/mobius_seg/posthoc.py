"""Maps fitted after training that turn a confidence into the quality to expect of its query.

They are stored as ``calibration.json`` beside the weights and fitted by ``mobius-seg calibrate``;
how stands in ``posthoc_fit.py`` and docs/calibration.md. Stage 0 is the query selection, 1..L are
the decoder layers.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor

from mobius_seg.errors import InputError
from mobius_seg.json_values import is_number, parse_json

REFIT = "delete the file, or fit it again with mobius-seg calibrate"


@dataclass(frozen=True, kw_only=True)
class StageMap:
    """Confidence -> expected quality at one stage.

    q = interpolate(sigmoid(logit(confidence) / temperature)) between the knots.

    Attributes:
        temperature: above 0.
        knots: (x, y) pairs, both strictly increasing in 0..1, x from 0 to 1: no ranking is lost.
    """

    temperature: float = 1.0
    knots: tuple[tuple[float, float], ...] = ((0.0, 0.0), (1.0, 1.0))

    def __post_init__(self) -> None:
        """Reject what is no strictly increasing map.

        Raises:
            InputError: names the field, the value and what is allowed.
        """
        if not (is_number(self.temperature) and self.temperature > 0):
            raise InputError(f"temperature is {self.temperature!r}; allowed: a number above 0")
        if not all(len(knot) == 2 and all(map(is_number, knot)) for knot in self.knots):
            raise InputError("knots: allowed: pairs of finite numbers")
        xs, ys = [x for x, _ in self.knots], [y for _, y in self.knots]
        if len(xs) < 2 or xs[0] != 0 or xs[-1] != 1:
            raise InputError("knots: the first must lie at 0, the last at 1")
        if not all(a < b for values in (xs, ys) for a, b in pairwise(values)):
            raise InputError("knots: both coordinates must strictly increase")
        if ys[0] < 0 or ys[-1] > 1:
            raise InputError(f"knots: values from {ys[0]} to {ys[-1]}; allowed: 0 to 1")


@dataclass(frozen=True, kw_only=True)
class ScoreMaps:
    """One map for each stage.

    Attributes:
        stages: of the selection and of every decoder layer.
    """

    stages: tuple[StageMap, ...]

    @classmethod
    def identity(cls, stages: int) -> Self:
        """Maps that change nothing.

        Args:
            stages: how many, L + 1 for L decoder layers.
        """
        return cls(stages=(StageMap(),) * stages)

    def apply(self, stage: int, scores: Tensor) -> Tensor:
        """Expected quality of queries from their confidence.

        Args:
            stage: 0 is the selection, 1..L are the layers.
            scores: confidences in 0..1, any shape.

        Returns:
            The same shape, in 0..1: ``scores`` itself under the identity, else in double precision
            (single on a device without), since level parts of a map lie within one step of single.

        Raises:
            InputError: there is no such stage.
        """
        if not 0 <= stage < len(self.stages):
            raise InputError(f"stage is {stage}; allowed: 0 to {len(self.stages) - 1}")
        chosen = self.stages[stage]
        if chosen == StageMap():
            return scores
        dtype = torch.float32 if scores.device.type == "mps" else torch.float64
        knots = torch.tensor(chosen.knots, dtype=dtype, device=scores.device)
        x, y = knots[:, 0].contiguous(), knots[:, 1]
        at = torch.sigmoid(torch.logit(scores.detach().to(dtype)) / chosen.temperature)
        right = torch.searchsorted(x, at.contiguous(), right=True).clamp(1, len(x) - 1)
        slope = (y[right] - y[right - 1]) / (x[right] - x[right - 1])
        value = y[right - 1] + (at - x[right - 1]) * slope
        return value.clamp(0, 1)

    def to_json(self) -> str:
        """The maps as JSON text."""
        return json.dumps(self.as_dict(), indent=1) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """The maps as plain values."""
        stages = [
            {"temperature": stage.temperature, "knots": [list(knot) for knot in stage.knots]}
            for stage in self.stages
        ]
        return {"stages": stages}

    @classmethod
    def from_json(cls, text: str, where: str = "score maps") -> Self:
        """Read what :meth:`to_json` wrote.

        Args:
            text: the JSON text.
            where: name used in error messages.

        Raises:
            InputError: it is something else.
        """
        return cls.from_dict(parse_object(text, where), where)

    @classmethod
    def from_dict(cls, values: object, where: str) -> Self:
        """Read what :meth:`as_dict` gave.

        Raises:
            InputError: it is something else.
        """
        stages = []
        for i, entry in enumerate(read_field(values, "stages", list, where)):
            place = f"{where}: stage {i}"
            temperature = read_field(entry, "temperature", (int, float), place)
            pairs = read_field(entry, "knots", list, place)
            if not all(isinstance(pair, list) for pair in pairs):
                raise InputError(f"{place}: knots: allowed: pairs of finite numbers")
            try:
                knots = tuple(tuple(pair) for pair in pairs)
                stages.append(StageMap(temperature=temperature, knots=knots))
            except InputError as error:
                raise InputError(f"{place}: {error}") from None
        if not stages:
            raise InputError(f"{where}: stages is empty; allowed: at least one")
        return cls(stages=tuple(stages))


def parse_object(text: str, where: str) -> dict[str, Any]:
    """JSON text whose top is an object.

    Raises:
        InputError: it is something else.
    """
    try:
        values = parse_json(text)
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error}); {REFIT}") from None
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected a JSON object, got {type(values).__name__}; {REFIT}")
    return values


def read_field(values: object, key: str, kind: Any, where: str) -> Any:
    """A field of an object, checked to be there and of its kind.

    Raises:
        InputError: it is not.
    """
    if not isinstance(values, dict) or key not in values:
        raise InputError(f"{where}: field {key!r} is missing; {REFIT}")
    value = values[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{where}: field {key!r} is of the wrong kind ({value!r:.40}); {REFIT}")
    return value
