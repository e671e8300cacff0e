"""Options of ``mobius-seg bench``."""

import argparse
from pathlib import Path

from mobius_seg.bench.contenders import sides_or_side
from mobius_seg.option_kinds import count, threads

PEERS = (
    "yolo26n-seg", "yolo11n-seg", "yoloe-11s-seg", "rfdetr-seg-nano", "mask2former-swin-tiny",
)  # fmt: skip
"""Networks that ``benchmarks/peers/build.py`` can make; any ONNX file may be given by its path."""


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Add the options to the subcommand's parser."""
    lists = (
        ("--models", "mobius-n", "presets or folders of models, each with @SIDE or @HxW if wanted"),
        (
            "--runtimes",
            "torch",
            "torch, predict (torch with all around it), onnx, openvino, executorch, litert",
        ),
        ("--operating-points", "full", "full, balanced, fast; fixed schedules"),
        ("--precisions", "fp32", "of exported graphs: fp32, fp16, int8"),
        ("--vocabulary", "fixed", "of exported graphs: fixed (names are constants), dynamic"),
        ("--peers", "", f"{', '.join(PEERS)}, each with @SIZE if wanted, or paths of ONNX files"),
    )
    for flag, default, text in lists:
        shown = f"{text} (default: {default or 'none'})"
        parser.add_argument(flag, default=default, metavar="A,B", help=shown)
    parser.add_argument(
        "--size", type=sides_or_side, default=None, metavar="HxW",
        help="input of models and peers that are given without one (default: each model's own;"
        " peers 640x640)",
    )  # fmt: skip
    counts = (
        ("--names-count", 80, "names that are asked for"),
        ("--runs", 10, "counted runs of a block"),
        ("--blocks", 7, "blocks of each contender"),
    )
    for flag, number, text in counts:
        help_text = f"{text} (default: {number})"
        parser.add_argument(flag, type=count, default=number, metavar="N", help=help_text)
    parser.add_argument(
        "--threads", type=threads, default=2, metavar="N", help="CPU threads (default: 2)"
    )
    parser.add_argument(
        "--calibration-images", type=Path, default=None, metavar="DIR",
        help="pictures that int8 graphs are calibrated with (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--exports", type=Path, default=None, metavar="DIR",
        help="keep exported graphs here and take those that are there (default: none is kept)",
    )  # fmt: skip
    parser.add_argument(
        "--peers-dir", type=Path, default=None, metavar="DIR",
        help="folder of the peers' ONNX files (default: peers in the user's cache)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write figures")
