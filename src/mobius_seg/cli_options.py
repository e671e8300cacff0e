"""The options of every subcommand. Which function runs them stands in ``cli.py``."""

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from mobius_seg.bench.options import add_bench
from mobius_seg.data.room_options import add_rooms
from mobius_seg.errors import InputError
from mobius_seg.export.options import add_export, add_lint
from mobius_seg.option_kinds import count, fraction, margin, points, positive, sides, threads
from mobius_seg.pareto.options import add_pareto
from mobius_seg.train.grow_options import add_grow
from mobius_seg.train.pretrain_options import add_pretrain
from mobius_seg.train.settings import TrainConfig
from mobius_seg.train.validation_options import add_validation

DEFAULT_MODEL = "mobius-n"
DEFAULT_ASSETS = Path("assets")
DEFAULT_PACK = DEFAULT_ASSETS / "pack.safetensors"

_Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

# Options of `train` by their field of TrainConfig, which holds the defaults.
_TRAIN_OPTIONS: tuple[tuple[str, type, str], ...] = (
    ("pack", Path, "pack file to compose scenes from"),
    ("annotations", Path, "COCO file to train on instead of composed scenes"),
    ("images", Path, "folder of that file's pictures"),
    ("weights", Path, "shipped model or model folder to start from (fine-tuning)"),
    ("backbone", Path, "folder of `mobius-seg pretrain` to start the backbone from"),
    ("batch_size", int, "images a step, over all processes"),
    ("lr", float, "peak learning rate"),
    ("backbone_lr", float, "peak learning rate of the backbone"),
    ("weight_decay", float, "of matrices and kernels"),
    ("clip", float, "maximum gradient norm"),
    ("warmup", int, "steps of linear warm-up"),
    ("flat", float, "share of the run at the peak rate before the cosine sets in"),
    ("ema", float, "decay of the averaged weights"),
    ("freeze_stride", int, "freeze the backbone up to the map of this stride, 0 for nothing"),
    ("expression_ratio", float, "share of images asked with an expression"),
    ("agnostic_ratio", float, "share of images asked without names"),
    ("enlarge_ratio", float, "share of composed scenes made smaller and enlarged"),
    ("close_ratio", float, "share of composed scenes that are close-ups"),
    ("texture_ratio", float, "share of their objects that get the relief of a background"),
    ("wording_ratio", float, "share of names asked in other words, and of scenes asked by kinds"),
    ("photometric_ratio", float, "share of a COCO file's pictures changed in light or noise"),
    ("prefix_ratio", float, "share of steps that run a random prefix of the decoder's layers"),
    ("drop_ratio", float, "share of steps that drop queries between layers"),
    ("workers", int, "loader processes"),
    ("threads", int, "CPU threads, 0 for torch's own choice"),
    ("precision", str, "auto, fp32 or bf16"),
    ("seed", int, "of everything random"),
    ("checkpoint_minutes", float, "minutes between checkpoints"),
    ("snapshot_minutes", float, "minutes between kept copies of the averaged weights, 0 for none"),
    ("snapshot_steps", int, "steps between such copies, 0 for none"),
    ("log_steps", int, "steps between log lines"),
)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else does."""

    def error(self, message: str) -> NoReturn:
        """Raise an InputError instead of printing the usage."""
        raise InputError(f"{message} (see {self.prog} --help)")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Refuse the empty path of an unset variable, which would be the working folder."""
        if action.type is Path and not arg_string:
            raise argparse.ArgumentError(action, "is empty; allowed: a path, . for this folder")
        return super()._get_value(action, arg_string)


class _Version(argparse.Action):
    """Prints the version; looks it up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print and exit."""
        from mobius_seg.version import __version__

        print(f"mobius-seg {__version__}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; ``options.command`` says which one was called."""
    parser = Parser(
        prog="mobius-seg",
        description="Find the instances of what you name in pictures, and train models that do.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_segment(commands)
    _add(commands, "models", "List the models: parameters, cost, weights shipped or not.")
    _add_profile(commands)
    assets = commands.add_parser(
        "assets", help="Get and pack what training scenes are made of.", allow_abbrev=False
    )
    _add_assets(assets.add_subparsers(title="commands", metavar="STEP", required=True))
    _add_compose(commands)
    add_rooms(partial(_add, commands), _option, DEFAULT_ASSETS)
    add_pretrain(partial(_add, commands), _option, DEFAULT_PACK)
    add_grow(partial(_add, commands), _option)
    _add_train(commands)
    _add_eval(commands)
    _add_calibrate(commands)
    _add_tune_pruning(commands)
    add_export(partial(_add, commands), _option, DEFAULT_MODEL)
    add_lint(partial(_add, commands))
    add_bench(_add(commands, "bench", "Time models in every runtime, beside other networks."))
    add_pareto(_add(commands, "pareto", "Show accuracy against time and cost on one page."))
    return parser


def _add(
    commands: _Commands, name: str, summary: str, more: str = "", command: str | None = None
) -> "Parser":
    """A subcommand with its texts."""
    parser = commands.add_parser(
        name, help=summary, description=f"{summary} {more}".strip(), allow_abbrev=False
    )
    parser.set_defaults(command=command or name)
    return parser


def _add_segment(commands: _Commands) -> None:
    parser = _add(
        commands,
        "segment",
        "Segment pictures by names, by an expression, or everything.",
        "Writes <stem>.png (overlay) and <stem>.json (boxes, scores, COCO RLE masks) for each"
        " picture and prints a table. A picture that cannot be used is named and the others go on;"
        " the exit code is then 2.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="picture, folder or glob pattern")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--names", metavar='"A,B"', help="names, separated by commas")
    prompt.add_argument("--expression", metavar="TEXT", help='such as "the cup on the left"')
    prompt.add_argument("--everything", action="store_true", help="every object, without names")
    _add_model_options(parser)
    _option(parser, "--threshold", fraction, 0.3, "lowest score that counts, 0 to 1")
    _option(parser, "--max-instances", count, 100, "at most so many in a picture")
    _option(parser, "--nms-iou", fraction, None, "mask overlap of duplicates (1 keeps them all)")
    _option(parser, "--budget", str, None, "limit for a picture, such as 2.5gmac, 3layers, 80ms")
    _option(parser, "--operating-point", str, None, "full, balanced or fast, as tuned (see docs)")
    _add_recognise(parser, "(see docs)")
    _option(parser, "--out", Path, Path("segmented"), "folder for the results")


def _add_profile(commands: _Commands) -> None:
    parser = _add(
        commands,
        "profile",
        "Count what a model costs, part by part, alone or against another.",
        "Parameters and 10^9 multiply-accumulates (GMAC) for one image; nothing is computed and no"
        " weights are needed. Two counts are compared, three with --certify.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", metavar="NAME|DIR", help="preset or a model's folder")
    what.add_argument(
        "--limits", action="store_true",
        help="instead: the baseline's decoders behind smaller and smaller backbones",
    )  # fmt: skip
    parser.add_argument("--against", metavar="NAME|DIR", help="another model, at `full`")
    parser.add_argument(
        "--size", type=sides, default=None, metavar="HxW",
        help="height and width in pixels, multiples of 32 (default: the model's own, square;"
        " 800x1344 with --against or --limits)",
    )  # fmt: skip
    _option(parser, "--names", count, 80, "names that are asked for")
    _option(
        parser, "--text-tokens", count, None,
        "tokens of those names, where a model fuses them (default: 3.25 a name)",
    )  # fmt: skip
    _option(parser, "--operating-point", str, "full", "pruning plan of --model")
    parser.add_argument(
        "--recognise", action="store_true",
        help="with what `segment --recognise` executes for a picture at most",
    )  # fmt: skip
    parser.add_argument("--certify", action="store_true", help="walk the exported graph too")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    _option(parser, "--out", Path, None, "picture of stacked bars (with --limits)")


def _add_assets(steps: _Commands) -> None:
    fetch = _add(
        steps,
        "fetch",
        "Download the object packages with npm, apt-get and pip.",
        "Every file's SHA-256 is compared with the pinned one.",
        command="assets fetch",
    )
    _option(fetch, "--dir", Path, DEFAULT_ASSETS, "where they go")
    pack = _add(
        steps,
        "pack",
        "Render the models and pack all cut-outs into one file.",
        command="assets pack",
    )
    _option(pack, "--dir", Path, DEFAULT_ASSETS, "where `assets fetch` put the packages")
    _option(pack, "--out", Path, DEFAULT_PACK, "file to write")
    _option(pack, "--views", count, 24, "views of each model")
    _option(pack, "--max-side", count, 192, "longest side of a cut-out in pixels")
    _option(
        pack, "--max-mb", positive, None,
        "make it smaller: every name stays, views and resolution drop evenly",
    )  # fmt: skip


def _add_compose(commands: _Commands) -> None:
    parser = _add(
        commands,
        "compose",
        "Write composed scenes as a COCO instance data set.",
        "Equal arguments give equal files.",
    )
    splits = ("train", "calib", "val-base", "val-novel")
    parser.add_argument("--split", required=True, choices=splits, help="which names and views")
    _option(parser, "--pack", Path, DEFAULT_PACK, "pack file")
    _option(parser, "--count", count, 500, "number of scenes")
    _option(parser, "--size", count, 256, "side of a scene in pixels")
    _option(parser, "--seed", int, 0, "of everything random")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")


def _add_train(commands: _Commands) -> None:
    parser = _add(
        commands,
        "train",
        "Train a model on composed scenes, or on a COCO data set.",
        "The trained model is the folder OUT/model; OUT may be given as a model too.",
    )
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    parser.add_argument("--preset", required=True, metavar="NAME", help="see `mobius-seg models`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder")
    _option(parser, "--minutes", float, None, "train for so many minutes, or")
    _option(parser, "--steps", int, None, "train so many steps")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    sizes = ",".join(f"{size}@{start:g}" for start, size in TrainConfig.sizes)
    _option(
        parser, "--size", str, None,
        f"side in pixels, or sides with the share of the run they start at (default: {sizes})",
    )  # fmt: skip
    low, high = TrainConfig.negatives
    parser.add_argument(
        "--negatives", type=int, nargs=2, metavar=("MIN", "MAX"),
        help=f"range of sampled negative names a step (default: {low} {high})",
    )  # fmt: skip
    for field, kind, text in _TRAIN_OPTIONS:
        _option(parser, f"--{field.replace('_', '-')}", kind, defaults[field], text)
    for field, text in (
        ("freeze_norm", "keep the backbone's batch norms as they are"),
        ("pretrained", "start the backbone from ImageNet weights"),
    ):
        assert defaults[field] is True
        parser.add_argument(
            f"--{field.replace('_', '-')}", action=argparse.BooleanOptionalAction, default=True,
            help=f"{text} (default: yes)",
        )  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="compile the backbone")
    add_validation(parser, _option)
    _option(parser, "--mixture", Path, None, "JSON file of sources to mix, instead of one")
    _option(parser, "--recipe", Path, None, "JSON file of stages to train in, for comparison")
    parser.add_argument(
        "--loss", action="append", metavar="NAME=VALUE",
        help="a field of the losses' configuration, such as class_loss=focal; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--model-option", action="append", dest="overrides", metavar="NAME=VALUE",
        help="a field of the model's configuration, such as bottleneck_stride=16; repeatable",
    )  # fmt: skip


def _add_eval(commands: _Commands) -> None:
    parser = _add(
        commands,
        "eval",
        "Score a model on a COCO instance data set.",
        "All names of the file are the vocabulary.",
    )
    _add_model_options(parser)
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO JSON")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="its pictures")
    modes = ("names", "everything", "expressions")
    parser.add_argument("--mode", choices=modes, default="names", help="default: names")
    _option(parser, "--expressions", Path, None, "default: expressions.json beside the annotations")
    _option(parser, "--operating-point", str, None, "full, balanced or fast, as tuned (see docs)")
    _add_recognise(parser, "in mode names")
    _option(parser, "--limit", count, None, "only the first so many pictures")
    _option(parser, "--out", Path, None, "JSON file for the figures")
    parser.add_argument(
        "--calibration", action="store_true",
        help="also the errors of the confidences at every stage (LaECE_0, D-ECE)",
    )  # fmt: skip
    _option(
        parser, "--calibration-plot", Path, None,
        "picture of reliability diagrams; with --out, the default is its name with .png",
    )  # fmt: skip
    _add_names_asked(parser)


def _add_recognise(parser: argparse.ArgumentParser, where: str) -> None:
    parser.add_argument(
        "--recognise", action=argparse.BooleanOptionalAction, default=None,
        help=f"ask an ImageNet classifier about the names too {where} (default: no)",
    )  # fmt: skip


def _add_names_asked(parser: argparse.ArgumentParser) -> None:
    _option(
        parser, "--names-asked", count, None,
        "confidences of prompts with so many names, a picture's own among them (default: all of"
        " the file)",
    )  # fmt: skip


def _add_calibrate(commands: _Commands) -> None:
    parser = _add(
        commands,
        "calibrate",
        "Fit maps from scores to the quality to expect, and the precision at each score.",
        "Writes calibration.json into the model's folder. Use a split that neither training nor"
        " scoring uses.",
    )
    _add_model_options(parser)
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO JSON")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="its pictures")
    _option(parser, "--limit", count, None, "only the first so many pictures")
    _add_names_asked(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="folder for a copy of the model with its calibration (default: the model's own)",
    )  # fmt: skip


def _add_tune_pruning(commands: _Commands) -> None:
    parser = _add(
        commands,
        "tune-pruning",
        "Find what of the decoder a model can leave out, and store it as operating points.",
        "Writes operating_points.json into the model's folder; then: segment --operating-point.",
    )
    _add_model_options(parser)
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO JSON")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="its pictures")
    _option(parser, "--loss", points, 0.3, "points (hundredths) that `balanced` may lose")
    parser.add_argument(
        "--metric", choices=("ap", "recall"), default="ap",
        help="mask AP with and without names, or recall of masks (default: ap)",
    )  # fmt: skip
    parser.add_argument(
        "--form", choices=("both", "adaptive", "static"), default="both",
        help="each picture on its own, the same queries and layers for all, or the former with the"
        " latter beside it for graphs of fixed shapes (default: both)",
    )  # fmt: skip
    _option(
        parser, "--margin", margin, 0.5,
        "standard errors of the measured loss that are added to it; 0 takes it as it is",
    )  # fmt: skip
    _option(parser, "--limit", count, None, "only the first so many pictures")
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="folder for a copy of the model with its points (default: the model's own)",
    )  # fmt: skip


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    """What loading and running a model needs."""
    _option(parser, "--model", str, DEFAULT_MODEL, "shipped model, or a model's folder")
    _option(
        parser, "--size", count, None, "longest side of the input in pixels (default: the model's)"
    )
    _option(parser, "--device", str, None, "such as cpu or cuda:1 (default: a GPU if there is one)")
    _option(parser, "--threads", threads, None, "CPU threads (default: torch's choice)")


def _option(parser: argparse.ArgumentParser, flag: str, kind: Any, default: Any, text: str) -> None:
    """An option with a value; its default stands in its help."""
    shown = f"{text} (default: {default})" if default is not None else text
    metavar = {
        Path: "PATH",
        str: "TEXT",
        float: "X",
        fraction: "X",
        positive: "X",
        points: "X",
        margin: "X",
    }.get(kind, "N")
    parser.add_argument(flag, type=kind, default=default, metavar=metavar, help=shown)
