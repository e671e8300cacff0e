"""The command line: every subcommand of ``mobius-seg``.

Every subcommand imports what it needs when it runs. What the user did wrong is one line on standard
error and exit code 2.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mobius_seg.cli_options import build_parser, train_config
from mobius_seg.errors import InputError
from mobius_seg.extras import EXTRAS
from mobius_seg.terminal import (
    make_console,
    print_error,
    printable,
    shows_progress,
    tolerate_encoding,
)

if TYPE_CHECKING:
    from mobius_seg.predictor import Predictor

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT
BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: arguments without the program's name; the process's own by default.

    Returns:
        Exit code: 0 done, 2 bad input, 130 interrupted, 141 the reader of the output went away.
    """
    tolerate_encoding()
    try:
        options = build_parser().parse_args(argv)
        code = _COMMANDS[options.command](options)
        sys.stdout.flush()
        return code
    except InputError as error:
        print_error(error)
        return USER_ERROR
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print_error(
            f"{error.name} is not installed, which this needs; install the extra {extra!r}: "
            f"pip install 'mobius-seg[{extra}]', in a clone pip install -e '.[{extra}]'"
        )
        return USER_ERROR
    except KeyboardInterrupt:
        print_error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_output()
        return BROKEN_PIPE
    except OSError as error:  # a full disk, a lost drive: whatever was not caught where it happened
        where = f"{error.filename}: " if error.filename else ""
        print_error(f"{where}{error.strerror or error}")
        try:
            sys.stdout.flush()
        except OSError:
            _abandon_output()
        return USER_ERROR
    except (MemoryError, RuntimeError) as error:
        # torch raises subclasses of RuntimeError, which cannot be named without importing it.
        if "memory" not in f"{type(error).__name__} {error}".lower():
            raise
        print_error("out of memory; try a smaller --size, smaller pictures or another --device")
        return USER_ERROR


def _abandon_output() -> None:
    """What cannot be written any more is dropped, so that the interpreter's last flush is quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _segment(options: argparse.Namespace) -> int:
    """Predict every picture; a bad one is named and the others go on."""
    from mobius_seg.segment_files import expand_paths, make_folder, plan_outputs, print_table

    prompt = _read_prompt(options)
    errors: list[InputError] = []

    def report(error: InputError) -> None:
        errors.append(error)
        print_error(error)

    images = expand_paths(options.paths, report)
    if not images:
        return USER_ERROR
    make_folder(options.out)
    predictor = _load(options)
    arguments = prompt | {
        "size": options.size,
        "threshold": options.threshold,
        "max_instances": options.max_instances,
        "nms_iou": options.nms_iou,
        "budget": options.budget,
        "operating_point": options.operating_point,
    }
    predictor.planner.request(options.budget, options.operating_point)  # before any picture
    if options.operating_point not in (None, "full") and predictor.planner.points.origin:
        make_console(stderr=True).print(
            f"{options.operating_point} is {predictor.planner.points.origin}", soft_wrap=True
        )
    jobs = plan_outputs(images, options.out)
    done = _run_jobs(predictor, options.model, jobs, arguments, report)
    if done:
        print_table(done)
    if len(done) == 1 and not len(done[0].instances):
        _print_near_misses(predictor, done[0].job.image, arguments)
    return USER_ERROR if errors else 0


def _print_near_misses(predictor: "Predictor", image: Path, arguments: dict[str, Any]) -> None:
    """Where nothing reached the threshold, say what came closest."""
    near = predictor.predict(image, **(arguments | {"threshold": 0.0, "max_instances": 3}))
    if len(near):
        words = ", ".join(
            f"{name} {score:.2f}" for name, score in zip(near.names, near.scores, strict=True)
        )
        line = f"nothing at {arguments['threshold']:g} or above; the best were {words}"
        make_console().print(printable(line), markup=False, highlight=False, soft_wrap=True)


def _read_prompt(options: argparse.Namespace) -> dict[str, Any]:
    """The prompt as arguments of ``predict``.

    Raises:
        InputError: a name or the expression is blank.
    """
    if options.names is not None:
        names = [name.strip() for name in options.names.split(",")]
        if not all(names):
            raise InputError(
                f"--names {options.names[:60]!r} holds a blank name;"
                ' give names separated by commas: --names "cup,spoon"'
            )
        return {"names": names}
    if options.expression is not None:
        if not options.expression.strip():
            raise InputError("--expression is blank; say what to look for")
        return {"expression": options.expression.strip()}
    return {}


def _run_jobs(
    predictor: "Predictor",
    model: str,
    jobs: Sequence[Any],
    arguments: dict[str, Any],
    report: Callable[[InputError], None],
) -> list[Any]:
    """Run the jobs under a progress bar, which shows when there are several."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from mobius_seg.segment_files import segment_file

    done = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = make_console(stderr=True)
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=len(jobs) < 2 or not shows_progress(console),
        transient=True,
    ) as bar:
        for job in bar.track(jobs, description="segmenting"):
            try:
                done.append(segment_file(predictor, model, job, **arguments))
            except InputError as error:
                report(error)
    return done


def _load(options: argparse.Namespace) -> "Predictor":
    """The model of ``--model`` on ``--device``, with ``--threads`` set."""
    import torch

    from mobius_seg.export.spec import is_exported
    from mobius_seg.predictor import load

    if is_exported(options.model):
        from mobius_seg.export.runtime import open_for_commands

        return cast("Predictor", open_for_commands(options))  # it answers the same calls
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return load(options.model, options.device)


def _models(_: argparse.Namespace) -> int:
    """Print the table of presets."""
    from rich.table import Table

    from mobius_seg.checkpoint import list_models

    table = Table()
    for title in ("model", "backbone", "input", "queries x layers", "M parameters", "GMAC"):
        table.add_column(title, justify="left" if title in ("model", "backbone") else "right")
    table.add_column("weights")
    for info in list_models():
        config = info.config
        table.add_row(
            info.name,
            config.backbone,
            str(config.input_size),
            f"{config.queries} x {config.decoder_layers}",
            f"{config.expected_params / 1e6:.2f}",
            f"{config.expected_gmac:,.{0 if config.expected_gmac >= 100 else 2}f}",
            "shipped" if info.shipped else "not shipped",
        )
    make_console().print(table)
    return 0


def _profile(options: argparse.Namespace) -> int:
    from mobius_seg.cost.command import run

    run(options)
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from mobius_seg.data.assets import fetch

    folders = fetch(options.dir)
    print(f"{len(folders)} packages in {options.dir}")
    return 0


def _pack(options: argparse.Namespace) -> int:
    from mobius_seg.data.pack import build_pack

    build_pack(
        options.dir,
        options.out,
        views=options.views,
        max_mb=options.max_mb,
        max_side=options.max_side,
    )
    print(f"wrote {options.out}")
    return 0


def _compose(options: argparse.Namespace) -> int:
    from mobius_seg.data.compose import write_dataset

    digest = write_dataset(
        options.pack, options.split, options.count, options.size, options.seed, options.out
    )
    print(f"wrote {options.out}; SHA-256 of annotations.json: {digest}")
    return 0


def _pretrain(options: argparse.Namespace) -> int:
    from mobius_seg.train.pretrain import PretrainConfig, pretrain

    config = PretrainConfig(
        preset=options.preset,
        out=options.out,
        pack=options.pack,
        minutes=options.minutes,
        steps=options.steps,
        size=options.size,
        batch_size=options.batch_size,
        lr=options.lr,
        threads=options.threads or 0,
        seed=options.seed,
    )
    print(f"wrote {pretrain(config)}")
    return 0


def _train(options: argparse.Namespace) -> int:
    config = train_config(options)
    from mobius_seg.train.loop import train

    print(f"wrote {train(config)}")
    return 0


def _eval(options: argparse.Namespace) -> int:
    from mobius_seg.calibration_cli import check_eval_options, print_report, report_of
    from mobius_seg.evaluate.runner import evaluate, write_metrics

    check_eval_options(options)
    predictor = _load(options)
    metrics = evaluate(
        predictor,
        options.annotations,
        options.images,
        mode=options.mode,
        expressions=options.expressions,
        size=options.size,
        threads=options.threads,
        limit=options.limit,
    )
    report = report_of(predictor, options) if options.calibration else None
    if options.out is not None:
        try:
            metrics |= {} if report is None else {"calibration": report}
            write_metrics(options.out, metrics)
        except OSError as error:
            raise InputError(f"{options.out}: cannot be written: {error.strerror}") from None
    metrics.pop("calibration", None)
    _print_metrics(metrics)
    if report is not None:
        print_report(report)
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    from mobius_seg.calibration_cli import run_calibrate

    return run_calibrate(options)


def _tune_pruning(options: argparse.Namespace) -> int:
    from mobius_seg.tune_cli import run_tune

    return run_tune(options)


def _later(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """A command whose module is imported when it runs."""

    def run(options: argparse.Namespace) -> int:
        found: int = getattr(import_module(f"mobius_seg.{module}"), function)(options)
        return found

    return run


def _print_metrics(metrics: dict[str, Any]) -> None:
    """A table of the figures, and the conditions below it."""
    from rich.table import Table

    table = Table("figure", "value")
    for key, value in metrics.items():
        if key != "conditions":
            text = "undefined" if value is None else str(value)
            table.add_row(key, f"{value:.4f}" if isinstance(value, float) else text)
    console = make_console()
    console.print(table)
    conditions = ", ".join(f"{key} {value}" for key, value in metrics["conditions"].items())
    console.print(conditions, soft_wrap=True)


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "segment": _segment,
    "models": _models,
    "profile": _profile,
    "assets fetch": _fetch,
    "assets pack": _pack,
    "compose": _compose,
    "pretrain": _pretrain,
    "train": _train,
    "eval": _eval,
    "calibrate": _calibrate,
    "tune-pruning": _tune_pruning,
    "export": _later("export.command", "run_export"),
    "lint-export": _later("export.lint_command", "run_lint"),
    "bench": _later("bench.command", "run_bench"),
    "pareto": _later("pareto.command", "run_pareto"),
}
