"""``mobius-seg train``: the run that its options describe."""

import argparse
import dataclasses

from mobius_seg.train.mixture import read_mixture
from mobius_seg.train.recipe import read_recipe
from mobius_seg.train.settings import TrainConfig, parse_sizes
from mobius_seg.train.switches import parse_loss, parse_overrides
from mobius_seg.train.validation_options import read_validation


def run_train(options: argparse.Namespace) -> int:
    """Train.

    Returns:
        The exit code.

    Raises:
        InputError: something that the user gave cannot be used.
    """
    config = train_config(options)
    from mobius_seg.train.loop import train  # needs the extra; a bad option does not

    print(f"wrote {train(config)}")
    return 0


def train_config(options: argparse.Namespace) -> TrainConfig:
    """The run that the options of ``train`` describe.

    Raises:
        InputError: they describe none.
    """
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    values = {key: value for key, value in vars(options).items() if key in fields}
    if options.size is not None:
        values["sizes"] = parse_sizes(options.size)
    if options.negatives is not None:
        values["negatives"] = tuple(options.negatives)
    else:
        values.pop("negatives", None)
    values["loss"] = parse_loss(options.loss)
    values["overrides"] = parse_overrides(options.overrides)
    values["mixture"] = () if options.mixture is None else read_mixture(options.mixture)
    values["recipe"] = None if options.recipe is None else read_recipe(options.recipe)
    values["validation"] = read_validation(options)
    return TrainConfig(**values)
