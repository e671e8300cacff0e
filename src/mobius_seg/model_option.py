"""The model that ``--model``, ``--device`` and ``--threads`` of a command name."""

import argparse
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from mobius_seg.predictor import Predictor


def open_model(options: argparse.Namespace) -> "Predictor":
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
