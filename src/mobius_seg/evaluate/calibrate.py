"""Fit the maps of a model on a COCO data set, and report how far confidences are off.

What is matched with what stands in ``stage_scores.py``, what the errors are in
``calibration_error.py``, how the maps are fitted in ``posthoc_fit.py``.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from mobius_seg.calibration_file import MODES, NAMES, Calibration, PrecisionTable
from mobius_seg.checkpoint import (
    CONFIG_FILE,
    SHIPPED,
    TRAINING_FILE,
    WEIGHTS_FILE,
    find_folder,
    save_calibration,
    weights_digest,
)
from mobius_seg.data.coco import CocoData, picture_path, read_coco
from mobius_seg.errors import InputError
from mobius_seg.evaluate import calibration_error as error
from mobius_seg.evaluate.stage_scores import StageScores, collect
from mobius_seg.files import atomic_path
from mobius_seg.posthoc import ScoreMaps
from mobius_seg.posthoc_fit import fit_precision_table, fit_stage_map
from mobius_seg.predict_arguments import check_extent
from mobius_seg.terminal import make_console, shows_progress
from mobius_seg.version import __version__

if TYPE_CHECKING:
    from mobius_seg.predictor import Predictor


def calibrate(
    predictor: "Predictor",
    annotations: str | Path,
    images: str | Path,
    *,
    weights_sha256: str,
    asked: int | None = None,
    size: int | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> tuple[Calibration, dict[str, dict[str, Any]]]:
    """Fit score maps and precision tables, with names and without.

    Args:
        predictor: of the model; a calibration that it has is not used.
        annotations: COCO instance file of a split that neither training nor scoring uses.
        images: folder that its file names are relative to.
        weights_sha256: of the model's weight file.
        asked: names that each picture is asked for, its own and others; default all of the file.
        size: longest side of the input in pixels, default the model's own.
        limit: only the first so many pictures.
        progress: show a bar on standard error.

    Returns:
        The calibration, and for each mode the :func:`error_report` on this very data set.

    Raises:
        InputError: the file or a picture cannot be used, it is federated or of a split that
            training or testing uses, or nothing in it can be fitted to.
    """
    coco, rows = _read(annotations, images, limit, size)
    coco.check_held_out("calibration")
    coco.check_exhaustive()
    if all(coco.annotations[i].crowd for row in rows for i in coco.by_image[row]):
        raise InputError(f"{coco.path}: no object to calibrate on; allowed: at least one")
    maps: dict[str, ScoreMaps] = {}
    tables: dict[str, PrecisionTable] = {}
    reports = {}
    for mode in MODES:
        shown, named = _track(rows, f"calibrating, {mode}", progress), mode == NAMES
        scores = collect(predictor, coco, Path(images), shown, named=named, asked=asked, size=size)
        if not (scores.quality[-1] * scores.counts[-1]).any():
            raise InputError(
                f"{coco.path}: model {predictor.config.name!r} finds nothing of it in mode"
                f" {mode!r}; there is nothing to fit"
            )
        maps[mode], tables[mode] = fit(scores)
        reports[mode] = error_report(scores, maps[mode])
    config = predictor.config
    fitted_on = {
        "model": config.name,
        **coco.provenance(),
        **{"images": len(rows), "objects": scores.objects, "size": size or config.input_size},
        "asked": min(len(coco.names), asked or len(coco.names)),
        **{"nms_iou": config.nms_iou, "mask_margin": config.mask_margin, "version": __version__},
    }
    calibration = Calibration(
        maps=maps, tables=tables, weights_sha256=weights_sha256, fitted_on=fitted_on
    )
    return calibration, reports


def fit(scores: StageScores) -> tuple[ScoreMaps, PrecisionTable]:
    """Maps of every stage, and the precision table of the last one under its map.

    Raises:
        InputError: scipy is not installed.
    """
    rows = zip(scores.confidence, scores.quality, scores.counts, strict=True)
    maps = ScoreMaps(stages=tuple(fit_stage_map(c[some], u[some]) for c, u, some in rows))
    counts = scores.counts[-1]
    mapped = mapped_confidence(maps, len(scores.counts) - 1, scores.confidence[-1][counts])
    return maps, fit_precision_table(mapped, scores.hits[-1][counts])


def mapped_confidence(
    maps: ScoreMaps, stage: int, confidence: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Confidences as ``predict`` gives them out: mapped, rounded to single precision.

    Args:
        maps: of the model.
        stage: whose map.
        confidence: of the network, [N].
    """
    values = maps.apply(stage, torch.from_numpy(confidence.astype(np.float32)))
    return values.float().double().numpy()


def calibration_report(
    predictor: "Predictor",
    annotations: str | Path,
    images: str | Path,
    *,
    mode: str = NAMES,
    asked: int | None = None,
    size: int | None = None,
    limit: int | None = None,
    plot: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Errors of a model's confidences on a data set, raw and (where it has maps) mapped.

    Args:
        predictor: of the model.
        annotations: COCO instance file.
        images: folder that its file names are relative to.
        mode: ``names`` or ``everything``.
        asked: names that each picture is asked for, see :func:`calibrate`.
        size: longest side of the input in pixels, default the model's own.
        limit: only the first so many pictures.
        plot: PNG file for the reliability diagrams.
        progress: show a bar on standard error.

    Returns:
        See :func:`error_report`.

    Raises:
        InputError: an argument, the file or a picture cannot be used.
    """
    if mode not in MODES:
        raise InputError(
            f"calibration is not defined in mode {mode!r}; allowed: {', '.join(MODES)}"
        )
    coco, rows = _read(annotations, images, limit, size)
    shown = _track(rows, "stages", progress)
    named = mode == NAMES
    scores = collect(predictor, coco, Path(images), shown, named=named, asked=asked, size=size)
    maps = None if predictor.calibration is None else predictor.calibration.maps[mode]
    if plot is not None:
        from mobius_seg.evaluate.reliability import draw_reliability

        draw_reliability(scores, maps, plot, f"{predictor.config.name}, {mode}")
    return error_report(scores, maps)


def error_report(scores: StageScores, maps: ScoreMaps | None) -> dict[str, Any]:
    """Calibration errors of every stage.

    Args:
        scores: what every query of every stage said.
        maps: None reports the raw confidences alone.

    Returns:
        JSON-ready: ``bins``, ``images``, ``objects``, ``middle_stage`` (L // 2), ``mapped`` (are
        there maps?) and ``stages``, one entry each with ``stage``, ``detections`` (those of the
        best F1 at IoU 0.5, which the errors are over), ``rank_correlation`` (Spearman's, of this
        stage's confidence with the quality that the same query has at the last stage, over all
        queries), ``raw`` and ``mapped``: ``laece0``, ``laece0_noise``, ``laece0_by_name``,
        ``d_ece``, and ``laece0_all`` and ``d_ece_all`` over all queries.
    """
    stages = []
    last = len(scores.confidence) - 1
    for stage in range(last + 1):
        both = scores.counts[stage] & scores.counts[last]
        confidence = scores.confidence[stage]
        entry = {
            "stage": stage,
            "rank_correlation": error.rank_correlation(
                confidence[both], scores.quality[last][both]
            ),
        }
        entry |= _errors(scores, stage, confidence)
        entry["mapped"] = None
        if maps is not None:
            entry["mapped"] = _errors(scores, stage, mapped_confidence(maps, stage, confidence))[
                "raw"
            ]
        stages.append(entry)
    return {
        "bins": error.BINS,
        "images": scores.images,
        "objects": scores.objects,
        "middle_stage": last // 2,
        "mapped": maps is not None,
        "stages": stages,
    }


def _errors(scores: StageScores, stage: int, confidence: NDArray[np.float64]) -> dict[str, Any]:
    """The errors of one stage under the given confidences."""
    counts = scores.counts[stage]
    # Ranked by the raw confidence, of which any map keeps the order: the same detections.
    order = np.argsort(-scores.confidence[stage][counts], kind="stable")
    c, u = confidence[counts][order], scores.quality[stage][counts][order]
    hits, names = scores.hits[stage][counts][order], scores.names[stage][counts][order]
    top = error.operating_rank(-np.arange(len(c), dtype=np.float64), hits, scores.objects)
    return {
        "detections": top,
        "raw": {
            "laece0": error.laece(c[:top], u[:top]),
            "laece0_noise": error.laece_noise(c[:top], u[:top]),
            "laece0_by_name": error.laece_by_name(c[:top], u[:top], names[:top]),
            "d_ece": error.d_ece(c[:top], hits[:top]),
            "laece0_all": error.laece(c, u),
            "d_ece_all": error.d_ece(c, hits),
        },
    }


def output_folder(model: str, out: Path | None, what: str = "calibration") -> tuple[Path, Path]:
    """The folder of a model, and the one that what is made for it goes to.

    Args:
        model: shipped model, or a model's folder.
        out: folder that the model is copied to; None for the model's own.
        what: is made, for the messages.

    Raises:
        InputError: there is no such model, or the folder cannot be written to.
    """
    source = find_folder(model)
    target = source if out is None else out
    if out is None and SHIPPED in source.parents:
        raise InputError(
            f"model {model!r} is part of the installation, which is left as it is; --out DIR copies"
            f" it and its {what} to a folder of your own"
        )
    if target.is_file():
        raise InputError(f"{target}: is a file; --out names a folder")
    nearest = next(p for p in (target, *target.absolute().parents) if p.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        hint = f"; --out DIR copies the model and its {what} elsewhere" if out is None else ""
        raise InputError(f"{target}: cannot be written to{hint}")
    # What is made fits one set of weights, and another model is not written over.
    there = (target / WEIGHTS_FILE).exists() and not _same(source, target)
    if there and weights_digest(target) != weights_digest(source):
        raise InputError(f"{target}: holds another model; --out names a folder of its own")
    return source, target


def store(calibration: Calibration, source: Path, target: Path) -> Path:
    """Write a calibration, and beside it the model where that is elsewhere.

    Args:
        calibration: to write.
        source: the model's folder.
        target: where the calibration goes; the same, or a folder that becomes a copy.

    Returns:
        The calibration's file.

    Raises:
        InputError: something cannot be written.
    """
    copy_model(source, target)
    return save_calibration(calibration, target)


def copy_model(source: Path, target: Path, more: Sequence[str] = ()) -> None:
    """Copy a model's files, unless both folders are one.

    Args:
        source: the model's folder.
        target: made if it is not there.
        more: further files that go with it where they are there.

    Raises:
        InputError: something cannot be written.
    """
    if target.exists() and _same(source, target):
        return
    try:
        for name in (WEIGHTS_FILE, CONFIG_FILE, TRAINING_FILE, *more):
            if (source / name).exists():
                with atomic_path(target / name) as temporary:
                    shutil.copyfile(source / name, temporary)
    except OSError as problem:
        reason = problem.strerror or problem
        raise InputError(f"{target}: cannot be written: {reason}") from None


def _same(a: Path, b: Path) -> bool:
    """Whether two existing folders are one."""
    return a.samefile(b)


def _read(
    annotations: str | Path, images: str | Path, limit: int | None, size: int | None
) -> tuple[CocoData, Sequence[int]]:
    """The data set and the pictures to use, all of which are there."""
    check_extent(size, limit)
    coco, folder = read_coco(annotations), Path(images)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of pictures")
    rows = range(len(coco.images))[:limit]
    for row in rows:
        picture_path(coco.images[row], folder)
    return coco, rows


def _track(rows: Sequence[int], text: str, progress: bool) -> Iterable[int]:
    """The pictures, with a bar on standard error."""
    console = make_console(stderr=True)
    hidden = not (progress and shows_progress(console))
    return track(rows, description=text, console=console, disable=hidden, transient=True)
