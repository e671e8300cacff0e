"""``mobius-seg profile``: cost of a model by part, alone or against another."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobius_seg.checkpoint import find_folder, read_config
from mobius_seg.config import ModelConfig
from mobius_seg.cost.certify import certified_profile
from mobius_seg.cost.record import Profile, workload
from mobius_seg.errors import InputError
from mobius_seg.presets import PRESETS, get_preset

FULL = "full"


def config_of(model: str) -> ModelConfig:
    """Configuration of a preset or of a model folder; no weights are read.

    Raises:
        InputError: neither a preset nor a model folder.
    """
    return get_preset(model) if model in PRESETS else read_config(find_folder(model))


def operating_points(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Named plans of a model: queries that each layer runs.

    Args:
        config: of the model; every model has ``full``.
    """
    return {FULL: (config.queries,) * config.decoder_layers}


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
    known = points if points is not None else operating_points(config)
    if point == FULL:
        return None
    if point not in known:
        raise InputError(
            f"{config.name} has no operating point {point!r}; allowed: {', '.join(known)}"
        )
    return tuple(known[point])


def measure(
    model: str,
    size: tuple[int, int],
    names: int,
    text_tokens: int,
    point: str = FULL,
    *,
    with_graph: bool = False,
) -> Profile:
    """Certified cost of a model.

    Args:
        model: preset or model folder.
        size: height and width in pixels.
        names: columns of the prompt.
        text_tokens: text tokens in the fusion, where sub-words are fused.
        point: operating point.
        with_graph: compare with the exported program too.

    Raises:
        InputError: unknown model or operating point, or a size that is no multiple of 32.
    """
    config = config_of(model)
    if any(side % 32 for side in size):
        raise InputError(f"size {size[0]}x{size[1]}: height and width must be multiples of 32")
    kept = kept_queries(config, point)
    work = workload(config, size, names, text_tokens)
    return certified_profile(config, work, kept, with_graph=with_graph)


def as_json(profile: Profile, against: Profile | None = None) -> dict[str, Any]:
    """A profile as JSON values; with another one, ``ratio`` is this one through the other.

    Args:
        profile: of the model.
        against: of the other model.

    Returns:
        ``params``; ``gmac`` of the large parts and the total; ``parts`` with GMAC of every part;
        ``ratio`` of the same shape, its large parts also without going through ``gmac``. The ratio
        of a part that the other model lacks is null.
    """
    values = _values(profile)
    if against is not None:
        other = _values(against)
        totals = _ratios(values["gmac"], other["gmac"])
        values["against"] = other
        values["ratio"] = {
            "params": values["params"] / other["params"],
            "gmac": totals,
            **totals,
            "parts": _ratios(values["parts"], other["parts"]),
        }
    return values


def _values(profile: Profile) -> dict[str, Any]:
    return {
        "params": profile.total_parameters,
        "gmac": profile.totals(),
        "parts": {part: macs / 1e9 for part, macs in profile.macs.items()},
    }


def _ratios(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float | None]:
    """Ours through theirs, key by key."""
    return {
        key: ours.get(key, 0.0) / theirs[key] if theirs.get(key) else None
        for key in dict.fromkeys([*ours, *theirs])
    }


def print_profiles(profiles: Mapping[str, Profile], conditions: str) -> None:
    """Print one column of GMAC and share for each model, and a ratio where there are two.

    Args:
        profiles: by the model's name; the ratio is that of the first through the second.
        conditions: what the figures hold for.
    """
    from rich.table import Table

    from mobius_seg.terminal import make_console

    table = Table("part")
    for name in profiles:
        table.add_column(f"{name} GMAC", justify="right")
        table.add_column("share", justify="right")
    if len(profiles) == 2:
        table.add_column("ratio", justify="right")
    for part, values in _rows([*profiles.values()]):
        cells = []
        for value, profile in zip(values, profiles.values(), strict=True):
            cells += [f"{value:,.3f}", f"{100 * value / profile.gmac:.1f} %"]
        if len(values) == 2:
            cells.append(f"{values[0] / values[1]:.3f}" if values[1] else "-")
        whole = "." not in part
        table.add_row(part, *cells, style="bold" if whole else None)
    console = make_console()
    console.print(table)
    for name, profile in profiles.items():
        console.print(f"{name}: {profile.total_parameters:,} parameters", soft_wrap=True)
    console.print(conditions, soft_wrap=True)


def _rows(profiles: Sequence[Profile]) -> list[tuple[str, list[float]]]:
    """Large parts, each followed by what lies under it, then the total."""
    parts = dict.fromkeys(part for profile in profiles for part in profile.macs)
    names = []
    for group in profiles[0].totals():
        below = [part for part in parts if part.startswith(f"{group}.")]
        names += [group, *below]
    return [
        (
            name,
            [p.gmac if name == "total" else p.part_gmac(name) for p in profiles],
        )
        for name in names
    ]


def write_json(values: Mapping[str, Any]) -> None:
    """Print JSON, alone, on standard output."""
    print(json.dumps(values, indent=2))


def save_picture(path: Path, bars: Mapping[str, Mapping[str, float]]) -> None:
    """Draw a stacked bar for each model.

    Args:
        path: picture to write; its ending says which kind.
        bars: model -> GMAC by part.

    Raises:
        InputError: matplotlib is not installed, or the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError('the picture needs matplotlib: pip install "mobius-seg[train]"') from None
    from mobius_seg.files import atomic_path

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    labels, below = list(bars), [0.0] * len(bars)
    for part in next(iter(bars.values())):
        heights = [bars[label][part] for label in labels]
        axes.bar(labels, heights, bottom=below, label=part.replace("_", " "))
        below = [a + b for a, b in zip(below, heights, strict=True)]
    axes.set_ylabel("GMAC")
    axes.legend(loc="upper right", fontsize="small")
    kind = path.suffix.removeprefix(".") or "png"
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=120)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no picture can be written: {error}") from None
