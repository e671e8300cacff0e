"""Options of ``mobius-seg grow``, and what runs it; imports nothing heavy."""

import argparse
from pathlib import Path

from mobius_seg.export.options import Add, Option


def add_grow(add: Add, option: Option) -> None:
    """Add the subcommand.

    Args:
        add: makes a subcommand from its name and texts.
        option: adds an option with a value.
    """
    parser = add(
        "grow",
        "Make a larger model of the family that computes what trained weights compute.",
        "Then: mobius-seg train --preset NAME --weights OUT, or pretrain likewise. Backbones of one"
        " family of EfficientNets grow, feed-forward parts, and the number of mixing layers.",
    )
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="MODEL",
        help="shipped model, or a model's folder, to start from",
    )  # fmt: skip
    parser.add_argument("--preset", required=True, metavar="NAME", help="the larger model")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    option(parser, "--seed", int, 0, "of which channels are copied, and of what is new")


def run_grow(options: argparse.Namespace) -> int:
    """Run the subcommand; exit code 0."""
    from mobius_seg.train.grow import write_grown

    out, apart = write_grown(options.weights, options.preset, options.out, options.seed)
    print(f"wrote {out}; its maps are those of {options.weights} within {apart:.1e} of the largest")
    return 0
