"""The command line: every subcommand of ``mobius-seg``.

Every subcommand imports what it needs when it runs. What the user did wrong is one line on standard
error and exit code 2.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from mobius_seg.cli_options import build_parser
from mobius_seg.errors import InputError
from mobius_seg.extras import EXTRAS
from mobius_seg.terminal import (
    make_console,
    print_error,
    tolerate_encoding,
)

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
        with _stoppable():
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


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let a polite kill end a command as Ctrl-C does: what it had begun to write is removed."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _abandon_output() -> None:
    """What cannot be written any more is dropped, so that the interpreter's last flush is quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    from mobius_seg.train.pretrain import pretrain
    from mobius_seg.train.pretrain_settings import PretrainConfig

    config = PretrainConfig(
        preset=options.preset,
        out=options.out,
        pack=options.pack,
        weights=options.weights,
        teacher=options.teacher,
        teacher_share=options.teacher_share,
        minutes=options.minutes,
        steps=options.steps,
        size=options.size,
        batch_size=options.batch_size,
        lr=options.lr,
        freeze_stride=options.freeze_stride,
        threads=options.threads or 0,
        precision=options.precision,
        seed=options.seed,
        resume=options.resume,
        checkpoint_minutes=options.checkpoint_minutes,
    )
    print(f"wrote {pretrain(config)}")
    return 0


def _later(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """A command whose module is imported when it runs."""

    def run(options: argparse.Namespace) -> int:
        found: int = getattr(import_module(f"mobius_seg.{module}"), function)(options)
        return found

    return run


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "segment": _later("segment_cli", "run_segment"),
    "models": _models,
    "profile": _later("cost.command", "run_profile"),
    "assets fetch": _fetch,
    "assets pack": _pack,
    "compose": _compose,
    "rooms": _later("data.room_options", "run_rooms"),
    "pretrain": _pretrain,
    "grow": _later("train.grow_options", "run_grow"),
    "train": _later("train.command", "run_train"),
    "eval": _later("evaluate.command", "run_eval"),
    "calibrate": _later("calibration_cli", "run_calibrate"),
    "tune-pruning": _later("tune_cli", "run_tune"),
    "export": _later("export.command", "run_export"),
    "lint-export": _later("export.lint_command", "run_lint"),
    "bench": _later("bench.command", "run_bench"),
    "pareto": _later("pareto.command", "run_pareto"),
}
