"""Named operating points of a model: policies that were tuned and measured, stored beside it.

``operating_points.json`` in the model's folder is written by ``mobius-seg tune-pruning``. Every
model has the point ``full``, which prunes nothing.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from mobius_seg.checkpoint import POINTS_FILE, WEIGHTS_FILE, weights_digest
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.files import write_text
from mobius_seg.json_values import is_number, parse_json
from mobius_seg.pruning import PruningPolicy

FULL = "full"
NAMES = (FULL, "balanced", "fast")
UNTUNED = "; `mobius-seg tune-pruning` makes more, static_points.json holds no keep fractions yet"
WEIGHTS_KEY, CALIBRATION_KEY = "weights_sha256", "calibration_sha256"
"""Conditions that say what points belong to; no digest of a calibration = tuned on raw scores."""
_FORMAT = 1


@dataclass(frozen=True)
class OperatingPoint:
    """A policy and what it was measured to do.

    Attributes:
        policy: what is pruned.
        measured: figures of the set it was tuned on (AP, recall, GMAC); empty = not measured.
    """

    policy: PruningPolicy
    measured: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class OperatingPoints:
    """All points of a model.

    Attributes:
        points: by name; ``full`` is among them.
        conditions: what they were tuned and measured with.
        origin: of static points, where their keep fractions come from (static_points.py); empty
            for points that were tuned for the model itself.
        graphs: by name, static policies that stand in for adaptive points where shapes are fixed.
    """

    points: Mapping[str, OperatingPoint]
    conditions: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    graphs: Mapping[str, OperatingPoint] = field(default_factory=dict)

    @classmethod
    def only_full(cls) -> "OperatingPoints":
        """Of a model that has not been tuned."""
        return cls({FULL: OperatingPoint(PruningPolicy())})

    def policy(self, name: object) -> PruningPolicy:
        """The policy of a point.

        Raises:
            InputError: the model has no such point.
        """
        if not isinstance(name, str) or name not in self.points:
            hint = "" if len(self.points) > 1 else UNTUNED
            raise InputError(
                f"operating point {name!r} is unknown; this model has"
                f" {', '.join(self.points)}{hint}"
            )
        return self.points[name].policy

    def check(self, config: ModelConfig, where: str = POINTS_FILE) -> None:
        """See that the policies are those of a network of this configuration.

        Raises:
            InputError: a policy, or what was measured of it, reaches beyond it.
        """
        depth, queries = config.decoder_layers, config.queries
        for name, point in (*self.points.items(), *self.graphs.items()):
            policy = point.policy
            for field_name, value, most in (
                ("layers", policy.layers or 0, depth),
                ("floors", len(policy.floors), depth),
                ("keep", max(policy.keep, default=0), queries),
            ):
                if value > most:
                    raise InputError(
                        f"{where}: {field_name} of point {name!r} says {value}, but model"
                        f" {config.name!r} has {queries} queries and {depth} layers"
                    )
            counts = [point.measured.get(queries_key(stage)) for stage in range(depth + 1)]
            known = [count for count in counts if count is not None]
            if any(after > before for before, after in pairwise([queries, *known, 0])):
                raise InputError(
                    f"{where}: queries measured at point {name!r} are {known!r:.60}; allowed:"
                    f" 0 to {queries}, stage by stage never more"
                )

    def check_scale(self, calibration: str | None, weights: str, where: str) -> None:
        """See that floors are read against the scores they were learned on.

        Args:
            calibration: digest of the model's score maps, None where it has none.
            weights: digest of its weight file.
            where: name of the file, for the message.

        Raises:
            InputError: the points were tuned with other maps or weights.
        """
        other = "weights" if self.conditions.get(WEIGHTS_KEY, weights) != weights else ""
        if self.conditions.get(CALIBRATION_KEY) != calibration:
            other = "score maps"
        if other:
            raise InputError(
                f"{where}: was tuned with other {other}; delete the file, or run"
                " mobius-seg tune-pruning again"
            )

    def save(self, folder: str | Path) -> Path:
        """Write the file into a model's folder, whole or not at all; returns its path.

        The digest of the weights that lie there is written with it.

        Raises:
            InputError: it cannot be written.
        """
        path = Path(folder) / POINTS_FILE
        points, graphs = (
            {
                name: {"policy": point.policy.to_dict(), "measured": dict(point.measured)}
                for name, point in some.items()
            }
            for some in (self.points, self.graphs)
        )
        conditions = dict(self.conditions)
        try:
            if (path.parent / WEIGHTS_FILE).exists():
                conditions[WEIGHTS_KEY] = weights_digest(path.parent)
            values = {"format": _FORMAT, "conditions": conditions, "points": points}
            values |= {"graphs": graphs} if graphs else {}
            write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
        return path


def load_points(folder: Path, config: ModelConfig) -> OperatingPoints:
    """Operating points of a model folder; without the file ``full`` alone.

    Raises:
        InputError: the file cannot be read, is malformed, or belongs to another network.
    """
    path = folder / POINTS_FILE
    if not path.exists():
        return OperatingPoints.only_full()
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    keys = ("format", "conditions", "points")
    fits = isinstance(values, dict) and set(values) - {"graphs"} == set(keys)
    if not fits or values["format"] != _FORMAT:
        raise InputError(f"{path}: expected an object with {', '.join(keys)}, format {_FORMAT}")
    if not isinstance(values["points"], dict) or FULL not in values["points"]:
        raise InputError(f"{path}: 'points' must be an object that holds {FULL!r}")
    if not isinstance(values["conditions"], dict):
        raise InputError(f"{path}: 'conditions' must be an object")
    if not isinstance(values.get("graphs", {}), dict):
        raise InputError(f"{path}: 'graphs' must be an object")
    points, graphs = (
        {name: _point(entry, f"{path}: {name}") for name, entry in values.get(key, {}).items()}
        for key in ("points", "graphs")
    )
    found = OperatingPoints(points, values["conditions"], graphs=graphs)
    if points[FULL].policy.form != FULL:
        raise InputError(f"{path}: the policy of {FULL!r} prunes")
    for name, point in graphs.items():
        if name == FULL or name not in points:
            raise InputError(f"{path}: {name!r} among 'graphs' is none of the points that prune")
        if point.policy.form not in (FULL, "static"):
            raise InputError(f"{path}: the policy of {name!r} among 'graphs' is not static")
    found.check(config, str(path))
    return found


def _point(entry: object, where: str) -> OperatingPoint:
    """One point of the file."""
    if not isinstance(entry, dict) or set(entry) != {"policy", "measured"}:
        raise InputError(f"{where}: expected an object with policy, measured")
    measured = entry["measured"]
    values = measured.values() if isinstance(measured, dict) else (measured,)
    if not isinstance(measured, dict) or not all(v is None or is_number(v) for v in values):
        raise InputError(f"{where}: 'measured' must hold finite numbers")
    return OperatingPoint(PruningPolicy.from_dict(entry["policy"], where), measured)


def queries_key(stage: int) -> str:
    """Key of the measured mean number of queries that ran a stage, 0 being the selection."""
    return f"queries_{stage}"


def layer_queries(config: ModelConfig, name: str, point: OperatingPoint) -> tuple[float, ...]:
    """Queries that run each stage at a point, the selection first: stated, or measured as a mean.

    Args:
        config: of the network.
        name: of the point, for the error.
        point: a policy that depends on the image has the queries that were measured.

    Returns:
        One number for each stage of the network, 0 for layers that do not run.

    Raises:
        InputError: an adaptive point whose queries were not measured.
    """
    policy, depth = point.policy, config.decoder_layers
    if policy.form != "adaptive":
        runs = range(1, policy.depth(depth) + 1)
        caps = [float(policy.cap(layer, config.queries)) for layer in runs]
        return (float(policy.cap(1, config.queries)), *caps, *[0.0] * (depth - len(caps)))
    measured = [point.measured.get(queries_key(stage)) for stage in range(depth + 1)]
    found = tuple(float(value) for value in measured if value is not None)
    if len(found) <= depth or not found[0] > 0:
        raise InputError(
            f"{config.name}: {POINTS_FILE} does not say how many queries ran each layer at"
            f" {name!r}; run mobius-seg tune-pruning again"
        )
    return found


def plan_of(config: ModelConfig, name: str, point: OperatingPoint) -> tuple[int, ...]:
    """Queries of each layer that runs at a point, means rounded up: a plan of costs.

    Args:
        config: of the network.
        name: of the point, for the error.
        point: static or measured.

    Raises:
        InputError: as :func:`layer_queries`.
    """
    return tuple(math.ceil(count) for count in layer_queries(config, name, point)[1:] if count > 0)


def from_fractions(
    config: ModelConfig, fractions: Sequence[float], layers: int | None = None
) -> PruningPolicy:
    """A static policy from the share of the queries that enters each layer.

    Args:
        config: gives the number of queries and layers.
        fractions: shares in 0..1 of the layers that run, of a decoder of any depth; read in between
            where so many others run here; none keeps all.
        layers: layers that run at most; None = all.
    """
    if not fractions:
        return PruningPolicy.static((), layers)
    import numpy as np

    at = np.linspace(0, 1, config.decoder_layers if layers is None else layers)
    shares = np.interp(at, np.linspace(0, 1, len(fractions)), fractions)
    keep = tuple(max(1, round(float(share) * config.queries)) for share in shares)
    return PruningPolicy.static(keep, layers)
