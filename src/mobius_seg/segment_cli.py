"""``mobius-seg segment``: pictures in, masks and a table out."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobius_seg.errors import InputError
from mobius_seg.model_option import open_model
from mobius_seg.terminal import make_console, print_error, printable, shows_progress

if TYPE_CHECKING:
    from mobius_seg.predictor import Predictor

_SOME_FAILED = 2  # as for every bad input


def run_segment(options: argparse.Namespace) -> int:
    """Predict every picture; a bad one is named and the others go on.

    Returns:
        The exit code.

    Raises:
        InputError: something that concerns every picture cannot be used.
    """
    from mobius_seg.segment_files import expand_paths, make_folder, plan_outputs, print_table

    prompt = _read_prompt(options)
    errors: list[InputError] = []

    def report(error: InputError) -> None:
        errors.append(error)
        print_error(error)

    images = expand_paths(options.paths, report)
    if not images:
        return _SOME_FAILED
    make_folder(options.out)
    predictor = open_model(options)
    arguments = prompt | {
        "size": options.size,
        "threshold": options.threshold,
        "max_instances": options.max_instances,
        "nms_iou": options.nms_iou,
        "budget": options.budget,
        "operating_point": options.operating_point,
        "recognise": options.recognise,
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
    return _SOME_FAILED if errors else 0


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
