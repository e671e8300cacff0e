"""Options of ``mobius-seg train`` on what the run is judged on; imports nothing heavy."""

import argparse
from pathlib import Path

from mobius_seg.errors import InputError
from mobius_seg.export.options import Option
from mobius_seg.option_kinds import count
from mobius_seg.train.validation_settings import Validation


def add_validation(parser: argparse.ArgumentParser, option: Option) -> None:
    """Add the options.

    Args:
        parser: of ``train``.
        option: adds an option with a value.
    """
    text = "COCO file that the run is judged on; the best weights are kept in OUT/best"
    option(parser, "--val-annotations", Path, None, text)
    option(parser, "--val-images", Path, None, "folder of that file's pictures")
    option(parser, "--val-steps", count, None, f"steps between judgements ({Validation.steps})")
    option(parser, "--val-limit", count, None, "only the first so many pictures of it")


def read_validation(options: argparse.Namespace) -> Validation | None:
    """What the options ask for, None where they ask for nothing.

    Raises:
        InputError: a part is missing.
    """
    annotations, images = options.val_annotations, options.val_images
    if annotations is None or images is None:
        given = (annotations, images, options.val_steps, options.val_limit)
        if any(value is not None for value in given):
            raise InputError(
                "--val-annotations FILE and --val-images DIR go together, and --val-steps and"
                " --val-limit with them"
            )
        return None
    return Validation(
        annotations=annotations,
        images=images,
        steps=options.val_steps or Validation.steps,
        limit=options.val_limit,
    )
