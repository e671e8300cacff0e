"""``mobius-seg tune-pruning``: tune, store and report."""

import argparse
from typing import TYPE_CHECKING

from mobius_seg.terminal import print_warning

if TYPE_CHECKING:
    from mobius_seg.operating_points import OperatingPoints


def run_tune(options: argparse.Namespace) -> int:
    """Tune the operating points of a model and store them with it.

    Returns:
        The exit code.

    Raises:
        InputError: something that the user gave cannot be used.
    """
    import torch

    from mobius_seg.calibration_cli import warn_if_few
    from mobius_seg.checkpoint import CALIBRATION_FILE, load_calibration, load_model
    from mobius_seg.evaluate.calibrate import copy_model, output_folder
    from mobius_seg.predictor import Predictor
    from mobius_seg.tune_pruning import tune

    source, target = output_folder(options.model, options.out, "operating points")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    # Without the points that may be there: they are replaced, even if they fit no more.
    network, calibration = load_model(options.model), load_calibration(options.model)
    points = tune(
        Predictor(network, device=options.device, calibration=calibration),
        options.annotations,
        options.images,
        loss=options.loss,
        metric=options.metric,
        form=options.form,
        margin=options.margin,
        size=options.size,
        limit=options.limit,
    )
    copy_model(source, target, (CALIBRATION_FILE,))
    path = points.save(target)
    _print_points(points)
    warn_if_few(points.conditions["images"])
    full = {"full": points.points["full"]}
    for kind, found in (("", points.points), (" of graphs", full | dict(points.graphs))):
        for point, other in (("balanced", "full"), ("fast", "balanced")):
            if point in found and found[point].policy == found[other].policy:
                text = "nothing was found that keeps its bound and is more than 5 % cheaper"
                print_warning(f"{point}{kind} is {other}: {text}")
    print(f"wrote {path}")
    return 0


def _print_points(points: "OperatingPoints") -> None:
    """A table of the operating points as measured."""
    from rich.table import Table

    from mobius_seg.terminal import make_console

    table = Table("point")
    keys = [key for key in points.points["full"].measured if not key.startswith("queries_")]
    for key in keys:
        table.add_column(key.replace("_", " "), justify="right")
    rows = [*points.points.items()]
    rows += [(f"{name}, fixed graph", point) for name, point in points.graphs.items()]
    for name, point in rows:
        values = (point.measured[key] for key in keys)
        table.add_row(name, *("undefined" if v is None else f"{v:.4f}" for v in values))
    make_console().print(table)
