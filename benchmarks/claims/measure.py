"""What is measured on a trained model: average precision, and how far its confidences are off."""

from pathlib import Path
from typing import Any

from setting import Bench

import mobius_seg
from mobius_seg.data.coco import read_coco
from mobius_seg.evaluate.calibrate import error_report, fit
from mobius_seg.evaluate.runner import evaluate
from mobius_seg.evaluate.stage_scores import StageScores, collect
from mobius_seg.predictor import Predictor

Values = dict[str, Any]

PRECISION = (
    "mask_ap",
    "mask_ap50",
    "mask_ap_small",
    "box_ap",
    "agnostic_mask_ap",
    "agnostic_mask_ap50",
    "agnostic_mask_ap_small",
    "agnostic_ar100",
)


def load(bench: Bench, folder: Path) -> Predictor:
    """A model with the pack's text vectors."""
    config = mobius_seg.checkpoint.read_config(folder)
    return mobius_seg.load(folder, text_encoder=bench.encoder(config))


def precision(bench: Bench, folder: Path, model: Predictor | None = None) -> Values:
    """AP of a model on the val scenes, all names of the setting asked.

    Returns:
        The figures of :data:`PRECISION`, fractions of 1 or None.
    """
    val = bench.scenes("val")
    found = evaluate(
        model or load(bench, folder), val.annotations, val.images, mode="names", progress=False
    )
    return {key: found[key] for key in PRECISION}


def calibration(bench: Bench, folder: Path) -> Values:
    """AP, and the calibration errors of every stage on more val scenes.

    Maps are fitted on more calib scenes as well. They keep the order of the scores of a stage, so
    AP is the same raw and mapped.

    Returns:
        The figures of :data:`PRECISION` and ``errors``, see
        :func:`mobius_seg.evaluate.calibrate.error_report`.
    """
    model = load(bench, folder)
    maps, _ = fit(_scores(bench, model, "error-calib"))
    report = error_report(_scores(bench, model, "error-val"), maps)
    return precision(bench, folder, model) | {"errors": report}


def _scores(bench: Bench, model: Predictor, split: str) -> StageScores:
    scenes = bench.scenes(split)
    coco = read_coco(scenes.annotations)
    return collect(model, coco, scenes.images, range(len(coco.images)), named=True)
