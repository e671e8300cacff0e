"""Static operating points of models that have not been tuned: keep fractions of one that has.

``static_points.json`` in the package says which share of the queries enters each layer of the
trained decoder of the pruning experiment, at each point that ``mobius-seg tune-pruning --form
static`` found for it. Other models, presets without weights among them, get the same shares of
their own queries over their own layers: one policy for the cost and for the accuracy that is shown
with it. The file is written from a tuned model's folder by ``python -m mobius_seg.static_points
FOLDER``.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from mobius_seg.checkpoint import POINTS_FILE, find_folder, read_config
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.files import write_text
from mobius_seg.json_values import parse_json
from mobius_seg.operating_points import (
    FULL,
    OperatingPoint,
    OperatingPoints,
    from_fractions,
    layer_queries,
    load_points,
)
from mobius_seg.terminal import print_error

STATIC_FILE = Path(__file__).parent / "static_points.json"
LAYERS = 9
"""Depth of the decoder that fractions are taken from, that of the accelerator presets."""

_FORMAT = 1
_KEYS = ("format", "conditions", "points")


@dataclass(frozen=True)
class StaticPoints:
    """Keep fractions and where they were tuned.

    Attributes:
        fractions: by point, the share of the queries that enters each layer of the tuned decoder,
            in 0..1; 0 from the first layer on that does not run.
        conditions: of the tuning: model, queries and layers first.
    """

    fractions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """Where the fractions come from, in one line."""
        known = ("model", "queries", "layers")
        model, queries, layers = (self.conditions.get(key, "?") for key in known)
        shown = ("annotations", "images", "names", "size", "metric", "loss")
        rest = [f"{key} {self.conditions[key]}" for key in shown if key in self.conditions]
        how = f" ({', '.join(rest)})" if rest else ""
        return (
            f"static: keep fractions tuned on {model} with {queries} queries and {layers}"
            f" layers{how}"
        )

    def of(self, config: ModelConfig) -> OperatingPoints:
        """The points of a model: its own queries and layers, these fractions.

        Args:
            config: of any network; shares are read in between where its depth is another.
        """
        points = {FULL: OperatingPoint(from_fractions(config, ()))}
        for name, shares in self.fractions.items():
            run = [share for share in shares if share > 0]
            layers = math.ceil(len(run) * config.decoder_layers / len(shares))
            most = None if layers == config.decoder_layers else layers
            points[name] = OperatingPoint(from_fractions(config, run, most))
        return OperatingPoints(points, self.conditions, self.origin if self.fractions else "")

    def to_json(self) -> str:
        """The file's text."""
        points = {name: list(shares) for name, shares in self.fractions.items()}
        values = {"format": _FORMAT, "conditions": dict(self.conditions), "points": points}
        return json.dumps(values, indent=1, allow_nan=False) + "\n"


def read_static_points(path: Path | None = None) -> StaticPoints:
    """What the data file holds; nothing where there is no file.

    Args:
        path: of the file; the package's own by default.

    Raises:
        InputError: it cannot be read or is malformed.
    """
    path = path or STATIC_FILE
    if not path.exists():
        return StaticPoints()
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if not isinstance(values, dict) or set(values) != set(_KEYS) or values["format"] != _FORMAT:
        raise InputError(f"{path}: expected an object with {', '.join(_KEYS)}, format {_FORMAT}")
    if not all(isinstance(values[key], dict) for key in _KEYS[1:]):
        raise InputError(f"{path}: 'conditions' and 'points' must be objects")
    for name, shares in values["points"].items():
        if name == FULL or not _fits(shares):
            raise InputError(
                f"{path}: point {name!r} is {shares!r:.60}; allowed: beside {FULL!r}, a list of"
                " shares in 0 to 1 that never rise, the first above 0"
            )
    points = {name: tuple(map(float, shares)) for name, shares in values["points"].items()}
    return StaticPoints(points, values["conditions"])


def static_points(config: ModelConfig, path: Path | None = None) -> OperatingPoints:
    """Operating points of a model that has none of its own; ``full`` alone without fractions.

    Args:
        config: of the network.
        path: of the data file; the package's own by default.

    Raises:
        InputError: the data file is malformed.
    """
    return read_static_points(path).of(config)


def derive_static_points(config: ModelConfig, points: OperatingPoints) -> StaticPoints:
    """Keep fractions of tuned static points: queries of each layer through those of the model.

    Args:
        config: of the tuned model, with a decoder of nine layers.
        points: as ``mobius-seg tune-pruning --form static`` made them.

    Raises:
        InputError: the decoder has another depth, nothing was tuned, or a point is adaptive: the
            mean numbers of a policy that looks at each picture are no policy for all of them.
    """
    if config.decoder_layers != LAYERS:
        raise InputError(
            f"{config.name} has {config.decoder_layers} decoder layers; fractions are taken from"
            f" a decoder of {LAYERS}"
        )
    tuned = {name: point for name, point in points.points.items() if name != FULL}
    if not tuned or points.origin:
        raise InputError(f"{config.name} has no tuned points; run mobius-seg tune-pruning first")
    fractions = {}
    for name, point in tuned.items():
        if point.policy.form == "adaptive":
            raise InputError(
                f"{config.name}: point {name!r} is adaptive; run mobius-seg tune-pruning --form"
                " static"
            )
        _, *layers = layer_queries(config, name, point)
        fractions[name] = tuple(round(queries / config.queries, 4) for queries in layers)
    facts = {"model": config.name, "queries": config.queries, "layers": config.decoder_layers}
    return StaticPoints(
        fractions, facts | {k: v for k, v in points.conditions.items() if k not in facts}
    )


def write_static_points(model: str | Path, path: Path | None = None) -> StaticPoints:
    """Derive the fractions from a tuned model and write the data file, whole or not at all.

    Args:
        model: shipped model or folder whose ``operating_points.json`` ``tune-pruning`` wrote.
        path: of the data file; the package's own by default.

    Raises:
        InputError: as :func:`derive_static_points`, or the file cannot be written.
    """
    path, folder = path or STATIC_FILE, find_folder(model)
    config = read_config(folder)
    if not (folder / POINTS_FILE).exists():
        raise InputError(f"{folder}: no {POINTS_FILE}; run mobius-seg tune-pruning first")
    found = derive_static_points(config, load_points(folder, config))
    try:
        write_text(path, found.to_json())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    return found


def _fits(shares: object) -> bool:
    """Whether these can be keep fractions."""
    if not isinstance(shares, list) or not shares:
        return False
    if not all(isinstance(share, int | float) and not isinstance(share, bool) for share in shares):
        return False
    falling = all(after <= before for before, after in pairwise(shares))
    return falling and 0 < shares[0] <= 1 and shares[-1] >= 0


def _main(arguments: list[str]) -> int:
    """``python -m mobius_seg.static_points FOLDER [--out FILE]``; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mobius_seg.static_points", description=write_static_points.__doc__
    )
    parser.add_argument("model", help="shipped model or folder with tuned points")
    parser.add_argument("--out", type=Path, default=STATIC_FILE, help="data file to write")
    options = parser.parse_args(arguments)
    try:
        found = write_static_points(options.model, options.out)
    except InputError as error:
        print_error(error)
        return 2
    for name, shares in found.fractions.items():
        print(f"{name}: {' '.join(f'{share:.3f}' for share in shares)}")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
