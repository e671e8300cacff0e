"""Average precision and executed cost of every schedule, by the package's own evaluation."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from mobius_seg.errors import InputError
from mobius_seg.evaluate.runner import evaluate
from mobius_seg.instances import Instances
from mobius_seg.pareto.request import Data, Setting
from mobius_seg.pareto.store import Key, Store
from mobius_seg.predictor import Predictor, load
from mobius_seg.receipt import Receipt
from mobius_seg.terminal import make_console, shows_progress
from mobius_seg.version import __version__

FIGURES = ("mask_ap", "mask_ap50", "agnostic_mask_ap")
"""Kept of each evaluation, fractions of 1."""

Figures = dict[str, float]


def accuracies(
    settings: Sequence[Setting],
    data: Data,
    threads: int,
    store: Store,
    say: Callable[[str], None],
) -> list[Figures]:
    """Accuracy and cost of each setting; what the store knows is not measured again.

    Args:
        settings: in the order of their models.
        data: the data set.
        threads: CPU threads.
        store: every result goes there at once.
        say: told of each result in one line.

    Returns:
        For each setting :data:`FIGURES` and ``gmac``, see :func:`square_gmac`.

    Raises:
        InputError: a picture cannot be used, or the store cannot be written.
    """
    found: list[Figures] = []
    predictor: Predictor | None = None
    for number, setting in enumerate(settings, 1):
        key = key_of(setting, data)
        known = store.find(key)
        if known is None or not {*FIGURES, "gmac"} <= set(known):
            same = bool(found) and settings[number - 2].model == setting.model
            if predictor is None or not same:
                predictor = load(setting.model)
            figures, more = _measure(predictor, setting, data, threads), ""
            store.keep(key, figures)
        else:
            figures, more = known, " (kept)"
        found.append(figures)
        shown = f"mask AP {100 * figures['mask_ap']:.1f}, {figures['gmac']:.3f} GMAC{more}"
        say(f"{number}/{len(settings)} {setting.label}: {shown}")
    return found


def key_of(setting: Setting, data: Data) -> Key:
    """Everything that an accuracy depends on."""
    return {
        "model": setting.config.name,
        "weights_sha256": setting.weights,
        "calibration_sha256": setting.calibration,
        "size": setting.side,
        "policy": setting.schedule.policy.to_dict(),
        "annotations_sha256": data.facts["annotations_sha256"],
        "pictures_sha256": data.facts["pictures_sha256"],
        "images": len(data.rows),
        "version": __version__,
        "torch": torch.__version__,
    }


def square_gmac(receipt: Receipt, side: int) -> float:
    """What was executed for a picture, in GMAC, as if it had filled a square input.

    Pictures of other shapes leave out what pads them; the input whose time is measured is square.
    A mask is counted for each query that is left, as in exported graphs, and the projection of the
    text each time.

    Args:
        receipt: of a prediction.
        side: of the input in pixels, a multiple of 32.
    """
    square = replace(receipt, input_hw=(side, side), masks=receipt.queries[-1], text_known=False)
    return square.gmac["total"]


def _measure(predictor: Predictor, setting: Setting, data: Data, threads: int) -> Figures:
    """Evaluate one setting."""
    costs: list[float] = []

    def see(instances: Instances) -> None:
        assert instances.receipt is not None, "names are asked for"
        costs.append(square_gmac(instances.receipt, setting.side))

    metrics: dict[str, Any] = evaluate(
        predictor,
        data.coco.path,
        data.images,
        size=setting.side,
        threads=threads,
        limit=len(data.rows),
        operating_point=setting.schedule.policy,
        seen=see,
        progress=shows_progress(make_console(stderr=True)),
    )
    for figure in FIGURES:
        if metrics[figure] is None:
            raise InputError(f"{data.coco.path}: {figure} is undefined on its pictures")
    return {figure: metrics[figure] for figure in FIGURES} | {"gmac": statistics.mean(costs)}
