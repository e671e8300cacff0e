"""Options of ``mobius-seg export`` and ``mobius-seg lint-export``; imports nothing heavy."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mobius_seg.option_kinds import count, sides, threads

Add = Callable[..., argparse.ArgumentParser]
Option = Callable[..., None]


def add_export(add: Add, option: Option, default_model: str) -> None:
    """The options of ``export``.

    Args:
        add: makes a subcommand from its name and texts.
        option: adds an option with a value.
        default_model: of ``--model``.
    """
    parser = add(
        "export",
        "Write a model as a graph for another runtime, and measure the graph against it.",
        "OUT gets the graph, model.json and parity.json; then: mobius-seg segment --model OUT. A"
        " preset without weights is exported with random ones. The exit code is 1 where the graph"
        " does not say what the network says.",
    )
    option(parser, "--model", str, default_model, "shipped model, preset, or a model's folder")
    parser.add_argument(
        "--format", choices=("onnx", "openvino", "executorch", "litert"), default="onnx",
        help="default: onnx; executorch and litert are for phones and have fixed shapes",
    )  # fmt: skip
    _add_graph(parser, option)
    _add_precision(parser, option)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--no-parity", dest="parity", action="store_false", help="do not compare, write no report"
    )
    option(parser, "--parity-annotations", Path, None, "COCO file to compare average precision on")
    option(parser, "--parity-images", Path, None, "its pictures")
    option(parser, "--parity-limit", count, 100, "only the first so many of them")
    option(parser, "--threads", threads, None, "CPU threads of the comparison")


def _add_graph(parser: argparse.ArgumentParser, option: Option) -> None:
    """What the graph holds and what goes into it."""
    points = ("full", "balanced", "fast")
    parser.add_argument(
        "--operating-point", choices=points, default="full",
        help="schedule of the decoder inside the graph (default: full)",
    )  # fmt: skip
    parser.add_argument(
        "--names", metavar='"A,B"',
        help="fixed names, separated by commas (default: text vectors are an input)",
    )  # fmt: skip
    parser.add_argument(
        "--dynamic-names", action="store_true",
        help="text vectors are an input; with --names a second graph, model_dynamic",
    )  # fmt: skip
    option(
        parser, "--names-count", count, None,
        "names that a graph for phones takes at most, where they are an input (80)",
    )  # fmt: skip
    parser.add_argument("--everything", action="store_true", help="every object, without names")
    parser.add_argument(
        "--segments", action="store_true",
        help="one graph a decoder layer, chained until the operating point's own rule stops",
    )  # fmt: skip
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--size", type=sides, default=None, metavar="HxW",
        help="height and width of the input, multiples of 32 (default: the model's own, square)",
    )  # fmt: skip
    size.add_argument("--dynamic-size", action="store_true", help="any multiples of 32")


def _add_precision(parser: argparse.ArgumentParser, option: Option) -> None:
    """How the graph computes."""
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="default: fp32"
    )
    option(parser, "--calibration-images", Path, None, "folder of pictures, for int8")
    option(parser, "--calibration-limit", count, 64, "use so many of them at most")


def add_lint(add: Add) -> None:
    """The options of ``lint-export``.

    Args:
        add: makes a subcommand from its name and texts.
    """
    parser = add(
        "lint-export",
        "List what in a model's graph a runtime would not take.",
        "No weights are needed and nothing is computed. The exit code is 1 where something is"
        " found.",
    )
    parser.add_argument(
        "--model", nargs="+", metavar="NAME|DIR", help="presets or folders (default: all presets)"
    )
    targets: dict[str, Any] = {"choices": ("onnx", "openvino", "executorch", "litert")}
    parser.add_argument("--target", default="onnx", help="default: onnx", **targets)
    parser.add_argument(
        "--size", type=sides, default=None, metavar="HxW", help="default: the model's own, square"
    )
    parser.add_argument("--json", action="store_true", help="print JSON alone")
