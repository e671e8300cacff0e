"""Certified cost of a named model at an operating point, and what it is as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from mobius_seg.checkpoint import find_folder, is_shipped, load_operating_points, read_config
from mobius_seg.config import ModelConfig
from mobius_seg.cost.certify import certified_profile, certified_recognition
from mobius_seg.cost.parts import part_order
from mobius_seg.cost.record import Profile, with_recognition, workload
from mobius_seg.errors import InputError
from mobius_seg.operating_points import FULL, NAMES, UNTUNED, OperatingPoints, plan_of
from mobius_seg.presets import PRESETS, get_preset
from mobius_seg.static_points import static_points

LARGEST = 65_536
"""Longest side in pixels that costs are counted for: the pairs of all its tokens have a number."""


def config_of(model: str) -> ModelConfig:
    """Configuration of a preset or of a model folder; no weights are read.

    Raises:
        InputError: neither a preset nor a model folder.
    """
    return get_preset(model) if model in PRESETS else read_config(find_folder(model))


def points_of(model: str) -> OperatingPoints:
    """Operating points of a preset or model folder: its tuned ones, else static ones.

    Raises:
        InputError: neither a preset nor a model folder, or a file of points is malformed.
    """
    if model in PRESETS and not is_shipped(model):
        return static_points(get_preset(model))
    return load_operating_points(model)


def operating_points(
    config: ModelConfig, points: OperatingPoints | None = None
) -> dict[str, tuple[int, ...]]:
    """Named plans of a model: queries that each layer runs, of adaptive points the mean.

    Args:
        config: of the model; every model has ``full``.
        points: its points; None takes the static ones.

    Raises:
        InputError: the queries of an adaptive point were not measured.
    """
    known = static_points(config) if points is None else points
    return {name: plan_of(config, name, point) for name, point in known.points.items()}


def origin_of(model: str, point: str) -> str:
    """What stands behind an operating point's plan, in one line; empty for ``full``.

    Raises:
        InputError: as :func:`points_of`.
    """
    if point == FULL:
        return ""
    points = points_of(model)
    return points.origin or f"tuned: mean queries on {points.conditions.get('annotations', '?')}"


def kept_queries(
    config: ModelConfig, point: str, points: Mapping[str, Sequence[int]] | None = None
) -> tuple[int, ...] | None:
    """Queries that each layer runs at an operating point, None for all of them.

    Args:
        config: of the model.
        point: name of the operating point.
        points: the model's points by name; :func:`operating_points` when not given.

    Raises:
        InputError: the model has no such point.
    """
    if point == FULL:
        return None
    known = points if points is not None else operating_points(config)
    if point not in known:
        hint = UNTUNED if point in NAMES and len(known) == 1 else ""
        raise InputError(
            f"{config.name} has no operating point {point!r}; allowed: {', '.join(known)}{hint}"
        )
    return tuple(known[point])


def check_size(size: tuple[int, int]) -> None:
    """Refuse sizes that no model takes.

    Raises:
        InputError: height or width is no multiple of 32, or too large to be counted.
    """
    if any(side % 32 or side > LARGEST for side in size):
        raise InputError(
            f"size {size[0]}x{size[1]}: height and width must be multiples of 32 up to {LARGEST}"
        )


def measure(
    model: str,
    size: tuple[int, int],
    names: int,
    text_tokens: int,
    point: str = FULL,
    *,
    with_graph: bool = False,
    recognise: bool = False,
) -> Profile:
    """Certified cost of a model.

    Args:
        model: preset or model folder.
        size: height and width in pixels.
        names: columns of the prompt.
        text_tokens: text tokens in the fusion, where sub-words are fused.
        point: operating point.
        with_graph: compare with the exported program too.
        recognise: with what :mod:`mobius_seg.recognition` adds at most.

    Raises:
        InputError: unknown model or operating point, a size that is no multiple of 32, or a
            folder's configuration describes no network.
    """
    config = config_of(model)
    check_size(size)
    own = None if point == FULL else operating_points(config, points_of(model))
    kept = kept_queries(config, point, own)
    work = workload(config, size, names, text_tokens)
    try:
        profile = certified_profile(config, work, kept, with_graph=with_graph)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, InputError) or model in PRESETS:
            raise
        reason = str(error).split("\n")[0]
        raise InputError(f"{model}: no network of its configuration can run: {reason}") from None
    if not recognise or names < 2:  # one name alone is never moved
        return profile
    return with_recognition(profile, *certified_recognition(config.text_dim, names))


def as_json(profile: Profile, against: Profile | None = None) -> dict[str, Any]:
    """A profile as JSON values; with another one, ``ratio`` is this one through the other.

    Args:
        profile: of the model.
        against: of the other model.

    Returns:
        ``params``; ``gmac`` of the large parts and the total; ``parts`` with GMAC of every part,
        ``shares`` of the whole and ``part_params``; ``ratio`` of the same shape, its large parts
        also without going through ``gmac``. The ratio of a part that the other model lacks is null.
    """
    values = _values(profile)
    if against is not None:
        other = _values(against)
        totals = _ratios(values["gmac"], other["gmac"])
        values["ratio"] = {
            "params": values["params"] / other["params"],
            "gmac": totals,
            **totals,
            "parts": _ratios(values["parts"], other["parts"]),
        }
    return values


def _values(profile: Profile) -> dict[str, Any]:
    parts = {part: profile.macs[part] / 1e9 for part in sorted(profile.macs, key=part_order)}
    return {
        "params": profile.total_parameters,
        "gmac": profile.totals(),
        "parts": parts,
        "shares": {part: gmac / profile.gmac for part, gmac in parts.items()},
        "part_params": dict(profile.parameters),
    }


def _ratios(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float | None]:
    """Ours through theirs, key by key."""
    return {
        key: ours.get(key, 0.0) / theirs[key] if theirs.get(key) else None
        for key in dict.fromkeys([*ours, *theirs])
    }
