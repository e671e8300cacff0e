"""Options of ``mobius-seg pareto``; imports nothing heavy."""

import argparse
from pathlib import Path

from mobius_seg.option_kinds import count, threads

PAGE = Path("pareto.html")


def add_pareto(parser: argparse.ArgumentParser) -> None:
    """Add the options to the subcommand's parser."""
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO JSON")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="its pictures")
    lists = (
        ("--models", "mobius-n", "shipped models or folders, each with @SIDE if wanted"),
        ("--operating-points", "full,balanced,fast", "some of full, balanced, fast"),
        ("--runtimes", "torch,onnx,openvino", "torch, and formats of `mobius-seg export`"),
    )
    for flag, default, text in lists:
        parser.add_argument(
            flag, default=default, metavar="A,B", help=f"{text} (default: {default})"
        )
    parser.add_argument(
        "--limit", type=count, default=None, metavar="N", help="only the first so many pictures"
    )
    parser.add_argument(
        "--threads", type=threads, default=2, metavar="N", help="CPU threads (default: 2)"
    )
    for flag, number, text in (
        ("--runs", 10, "counted runs of a block, as in `bench`"),
        ("--blocks", 7, "blocks of each point in each runtime"),
    ):
        help_text = f"{text} (default: {number})"
        parser.add_argument(flag, type=count, default=number, metavar="N", help=help_text)
    parser.add_argument(
        "--exports", type=Path, default=None, metavar="DIR",
        help="keep exported graphs here and take those that are there (default: none is kept)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=PAGE, metavar="FILE", help=f"the page (default: {PAGE})"
    )
    parser.add_argument(
        "--json", type=Path, default=None, metavar="FILE",
        help="figures, and what an interrupted run goes on from (default: beside the page)",
    )  # fmt: skip
