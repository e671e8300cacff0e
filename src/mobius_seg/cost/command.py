"""``mobius-seg profile``: cost of a model by part, alone or against another, on the terminal."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from mobius_seg.cost.certify import TOLERANCE
from mobius_seg.cost.limits import bars, limits, save_picture
from mobius_seg.cost.parts import part_order
from mobius_seg.cost.record import Profile, stated_text_tokens
from mobius_seg.cost.report import as_json, check_size, config_of, measure, origin_of
from mobius_seg.errors import InputError
from mobius_seg.operating_points import FULL
from mobius_seg.recognition import CROPS
from mobius_seg.terminal import make_console

FIELD_SIZE = (800, 1344)
"""Height and width at which detectors state their cost (short side 800, long side at most 1333)."""
Columns = Sequence[tuple[str, Profile]]


def run_profile(options: argparse.Namespace) -> int:
    """Run the command with the options that ``cli_options`` describes.

    Returns:
        The exit code.

    Raises:
        InputError: an option for which the others leave no use, or what the counts refuse.
    """
    size = options.size or _own_size(options)
    check_size(size)
    tokens = options.text_tokens or stated_text_tokens(options.names)
    load = (size, options.names, tokens)
    conditions = {"size": list(size), "names": options.names, "text_tokens": tokens}
    conditions["agreeing_counts"] = list(counts(options.certify, options.operating_point))
    if options.limits:
        _run_limits(options, load, conditions)
        return 0
    if options.out is not None:
        raise InputError("--out is the picture of --limits; give it with that option")
    conditions["operating_point"] = options.operating_point
    origin = origin_of(options.model, options.operating_point)
    if origin:
        conditions["operating_point_origin"] = origin
    if options.recognise:
        conditions["crops"] = CROPS
    profile = measure(
        options.model,
        *load,
        options.operating_point,
        with_graph=options.certify,
        recognise=options.recognise,
    )
    columns = [(options.model, profile)]
    if options.against is not None:
        columns.append(
            (options.against, measure(options.against, *load, with_graph=options.certify))
        )
    if options.json:
        facts = {"model": options.model, "against": options.against, **conditions}
        _print_json(facts | as_json(*(profile for _, profile in columns)))
    else:
        _print_profiles(columns, conditions)
    return 0


def counts(certify: bool, point: str) -> tuple[str, ...]:
    """Which counts of a profile were compared; they agreed, or else there is no profile.

    Args:
        certify: whether the exported program was asked for.
        point: operating point; the exported program is that of the whole decoder.
    """
    asked = ("dispatch", "closed form")
    return (*asked, "exported graph") if certify and point == FULL else asked


def _own_size(options: argparse.Namespace) -> tuple[int, int]:
    """The model's own input, square; that of the field's comparisons where several are compared."""
    if options.limits or options.against is not None:
        return FIELD_SIZE
    side = -(-config_of(options.model).input_size // 32) * 32
    return side, side


def _run_limits(
    options: argparse.Namespace,
    load: tuple[tuple[int, int], int, int],
    conditions: dict[str, Any],
) -> None:
    """``--limits``: table or JSON, and the picture if it is wanted."""
    other = options.against is not None or options.operating_point != FULL
    if other or options.certify or options.recognise:
        raise InputError(
            "--limits takes none of --against, --operating-point, --certify and --recognise"
        )
    profiles = limits(*load)
    parts = bars(profiles)
    if options.out is not None:
        save_picture(options.out, parts)
    if options.json:
        values = {name: as_json(profile) for name, profile in profiles.items()}
        _print_json({**conditions, "backbones": values})
        return
    table = Table("part")
    for name in parts:
        table.add_column(f"{name} GMAC", justify="right")
        table.add_column("share", justify="right")
    for part in next(iter(parts.values())):
        cells: list[str] = []
        for name, profile in profiles.items():
            value = parts[name][part]
            cells += [f"{value:,.2f}", _share(value, profile)]
        table.add_row(part, *cells)
    table.add_row("total", *(c for p in profiles.values() for c in (f"{p.gmac:,.2f}", "")))
    _print_table(table, [*profiles.items()], conditions)


def _print_profiles(columns: Columns, conditions: Mapping[str, Any]) -> None:
    """One column of GMAC and share a model; of two, the ratio of the first to the second."""
    table = Table("part")
    for name, _ in columns:
        table.add_column(f"{name} GMAC", justify="right")
        table.add_column("share", justify="right")
    if len(columns) == 2:
        table.add_column("ratio", justify="right")
    profiles = [profile for _, profile in columns]
    for part, values in _rows(profiles):
        cells: list[str] = []
        for value, profile in zip(values, profiles, strict=True):
            cells += [f"{value:,.3f}", _share(value, profile)]
        if len(values) == 2:
            cells.append(f"{values[0] / values[1]:.3f}" if values[1] else "-")
        table.add_row(part, *cells, style="bold" if "." not in part else None)
    _print_table(table, columns, conditions)


def _rows(profiles: Sequence[Profile]) -> list[tuple[str, list[float]]]:
    """Large parts, each followed by what lies under it, then the total."""
    found = dict.fromkeys(part for profile in profiles for part in profile.macs)
    parts = sorted(found, key=part_order)
    names: list[str] = []
    for group in profiles[0].totals():
        names += [group, *(part for part in parts if part.startswith(f"{group}."))]
    return [
        (name, [p.gmac if name == "total" else p.part_gmac(name) for p in profiles])
        for name in names
    ]


def _print_table(table: Table, columns: Columns, conditions: Mapping[str, Any]) -> None:
    """The table, the parameters of each model and what the figures hold for."""
    console = make_console()
    console.print(table)
    for name, profile in columns:
        console.print(f"{name}: {profile.total_parameters:,} parameters", soft_wrap=True)
    height, width = conditions["size"]
    text = f"{height}x{width}, {conditions['names']} names, {conditions['text_tokens']} text tokens"
    point = conditions.get("operating_point", FULL)
    console.print(f"{text} where sub-words are fused, operating point {point}", soft_wrap=True)
    agreeing = " and ".join(conditions["agreeing_counts"])
    console.print(f"{agreeing} agree within {TOLERANCE:.1%} in every part", soft_wrap=True)
    if "crops" in conditions:
        console.print(f"recognition of at most {conditions['crops']} objects", soft_wrap=True)
    if "operating_point_origin" in conditions:
        console.print(f"{point} is {conditions['operating_point_origin']}", soft_wrap=True)


def _share(value: float, profile: Profile) -> str:
    return f"{100 * value / profile.gmac:.1f} %"


def _print_json(values: Mapping[str, Any]) -> None:
    print(json.dumps(values, indent=2))
