"""Options of ``mobius-seg rooms``, and what runs it; imports nothing heavy."""

import argparse
from pathlib import Path

from mobius_seg.export.options import Add, Option
from mobius_seg.option_kinds import count, threads


def add_rooms(add: Add, option: Option, assets: Path) -> None:
    """Add the subcommand.

    Args:
        add: makes a subcommand from its name and texts.
        option: adds an option with a value.
        assets: default of ``--assets``.
    """
    parser = add(
        "rooms",
        "Draw furnished rooms by path tracing, as a COCO instance data set to train on.",
        "Needs Blender as a module (extra rooms, Python 3.11). Scene i depends on the seed and i"
        " alone; a run that was stopped goes on, and a larger count adds to a smaller one.",
    )
    option(parser, "--count", count, 500, "number of scenes")
    option(parser, "--size", count, 320, "side of a scene in pixels")
    option(parser, "--seed", int, 0, "of everything random")
    option(parser, "--samples", count, 12, "light paths a pixel, before denoising")
    option(parser, "--assets", Path, assets, "where `assets fetch` put the packages")
    option(parser, "--threads", threads, None, "CPU threads (default: all cores)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to make, or to go on with"
    )


def run_rooms(options: argparse.Namespace) -> int:
    """Run the subcommand; exit code 0."""
    from mobius_seg.data.room_files import write_rooms

    digest = write_rooms(
        options.assets,
        options.count,
        options.size,
        options.seed,
        options.out,
        samples=options.samples,
        threads=options.threads,
    )
    print(f"wrote {options.out}; SHA-256 of annotations.json: {digest}")
    return 0
