"""One picture on its way from the caller to the network and back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from mobius_seg.calibration_file import EVERYTHING, NAMES, Calibration
from mobius_seg.config import ModelConfig
from mobius_seg.imageio import load_image
from mobius_seg.instances import Instances
from mobius_seg.planner import Shape
from mobius_seg.postprocess import (
    QueryMasks,
    Selection,
    choose,
    distinct,
    name_logits,
    query_scores,
)
from mobius_seg.predict_arguments import check_arguments
from mobius_seg.preprocess import Frame, make_fixed_frame, make_frame, resize
from mobius_seg.prompts import Prompt
from mobius_seg.pruned_decoder import PrunedOutput
from mobius_seg.pruning import StageMaps
from mobius_seg.receipt import Receipt
from mobius_seg.recognition import CROPS, Recogniser

Renaming: TypeAlias = Callable[[Tensor, dict[int, dict[str, Any]]], Tensor]
"""Scores [Q, K] and query -> mask (best first) to scores [Q, K]."""


@dataclass(frozen=True)
class Limits:
    """Which instances are returned, by which scores.

    Attributes:
        threshold: lowest score.
        max_instances: how many at most.
        names_each: best names that each comes under.
        nms_iou: mask IoU of duplicates; None for the model's own.
        maps: of each stage's scores, as they are returned; None for the raw ones.
        pruning_maps: of the confidence that pruning reads, whatever is returned: floors are learned
            with the model's maps.
        pruning_threshold: the threshold as a score of the last stage under these maps.
        recogniser: has a say in the names; None for the network's alone.
    """

    threshold: float
    max_instances: int
    maps: StageMaps | None
    names_each: int = 1
    nms_iou: float | None = None
    pruning_maps: StageMaps | None = None
    pruning_threshold: float = 0.0
    recogniser: Recogniser | None = None


def read_limits(
    prompts: Sequence[Prompt],
    size: int,
    threshold: float,
    counts: tuple[int, int, int],
    scale: tuple[Calibration | None, bool],
    nms_iou: float | None,
) -> Limits:
    """The numbers of a call, checked.

    Args:
        prompts: of the call.
        size: longest side in pixels.
        threshold: lowest score, of those that are returned.
        counts: of instances, of pictures in a batch, of names each.
        scale: the model's calibration, and whether scores are returned mapped by it. Pruning reads
            them so in any case.
        nms_iou: mask IoU of duplicates; None for the model's own.

    Raises:
        InputError: names the number and what is allowed.
    """
    (most, batch_size, names_each), (calibration, calibrated) = counts, scale
    check_arguments(size, threshold, most, batch_size, calibrated, names_each, nms_iou)
    at = float(threshold)
    if calibration is None:
        return Limits(at, most, None, names_each, nms_iou, None, at)
    mode = NAMES if any(prompt.texts for prompt in prompts) else EVERYTHING
    maps = calibration.maps[mode]
    if calibrated:
        return Limits(at, most, maps, names_each, nms_iou, maps, at)
    last = len(maps.stages) - 1
    mapped = float(maps.apply(last, torch.tensor(at, dtype=torch.float64)))
    return Limits(at, most, None, names_each, nms_iou, maps, mapped)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture on its way through the network.

    Attributes:
        index: its place among the pictures of the call.
        source: what the caller gave.
        prompt: what is asked for in it.
        frame: its sizes.
        pixels: uint8 RGB, resized.
        picture: uint8 RGB of the original size, where objects are cut out of it.
    """

    index: int
    source: Any
    prompt: Prompt
    frame: Frame
    pixels: NDArray[np.uint8]
    picture: NDArray[np.uint8] | None = None


def read_job(
    source: Any,
    index: int,
    prompt: Prompt,
    size: int | tuple[int, int],
    where: str | None,
    whole: bool = False,
) -> Job:
    """Read and resize a picture; only the resized pixels are kept unless ``whole`` is set.

    Args:
        source: what the caller gave.
        index: its place.
        prompt: what is asked for in it.
        size: longest side in pixels, or height and width of an input that fits every picture.
        where: what error messages call it.
        whole: keep the picture in its original size too.
    """
    if where is not None and isinstance(source, str | Path):
        where = f"{where} ({source})"
    image = load_image(source, where)
    height, width = image.shape[:2]
    if isinstance(size, tuple):
        frame = make_fixed_frame(height, width, size)
    else:
        frame = make_frame(height, width, size)
    pixels = resize(image, frame)
    picture = image if whole else None
    return Job(
        index=index, source=source, prompt=prompt, frame=frame, pixels=pixels, picture=picture
    )


def read_jobs(
    sources: Sequence[Any],
    prompts: Sequence[Prompt],
    size: int | tuple[int, int],
    many: bool,
    whole: bool = False,
) -> Iterator[Job]:
    """Read pictures one after the other, each when it is its turn.

    Args:
        sources: what the caller gave.
        prompts: one for each.
        size: as in :func:`read_job`.
        many: they came as a list, which error messages say.
        whole: as in :func:`read_job`.
    """
    for index, (source, prompt) in enumerate(zip(sources, prompts, strict=True)):
        where = f"image {index}" if many else None
        yield read_job(source, index, prompt, size, where, whole)


def read_instances(
    config: ModelConfig,
    pruned: PrunedOutput,
    job: Job,
    limits: Limits,
    shape: Shape,
    text_known: bool = False,
) -> Instances:
    """Instances of one picture, with the receipt of what was executed for it.

    Args:
        config: of the network.
        pruned: its output for this picture.
        job: the picture.
        limits: what is returned.
        shape: of the network's input.
        text_known: its text was projected for an earlier picture.
    """
    output = pruned.output
    columns, alpha = len(job.prompt.texts), config.objectness_weight
    scores_QK = query_scores(output, 0, columns, alpha)
    masks, stage = QueryMasks.of(output, 0), len(output.layers) - 1
    rename = None
    if limits.recogniser is not None and columns > 1:  # one name cannot be another
        assert job.picture is not None
        prob_Q = name_logits(output, 0, columns).amax(-1).sigmoid()
        ask = limits.recogniser.rename
        rename = partial(ask, prob_Q=prob_Q, picture=job.picture, texts=job.prompt.texts)
    found, computed = build_instances(config, scores_QK, masks, job, limits, stage, rename)
    receipt = Receipt(
        config=config,
        input_hw=shape[:2],
        columns=shape[2],
        tokens=shape[3],
        queries=pruned.queries,
        masks=computed,
        shortlist=0 if output.columns_BK is None else output.columns_BK.shape[1],
        text_known=text_known,
    )
    if rename is not None and limits.recogniser is not None:
        seen = len(np.unique(found.instance_ids))
        macs = limits.recogniser.crop_macs(columns)
        receipt = replace(receipt, crops=min(CROPS, seen), crop_macs=macs)
    return replace(found, receipt=receipt)


def build_instances(
    config: ModelConfig,
    scores_QK: Tensor,
    masks: QueryMasks,
    job: Job,
    limits: Limits,
    stage: int,
    rename: Renaming | None = None,
) -> tuple[Instances, int]:
    """Instances of one picture from what any runtime said about it.

    Args:
        config: of the network.
        scores_QK: of each column of the job's prompt (one where it has none), before any map.
        masks: of the same queries.
        job: the picture.
        limits: what is returned.
        stage: that the scores are of, for the maps.
        rename: moves a query's score from name to name and leaves its best score as it is.

    Returns:
        The instances, without a receipt, and how many masks were computed.
    """
    each, maps = limits.names_each, limits.maps
    chosen = choose(scores_QK, limits.threshold, None, maps, stage, each)
    mask_of, computed = distinct(
        masks,
        chosen.shown(),
        job.frame,
        nms_iou=config.nms_iou if limits.nms_iou is None else limits.nms_iou,
        margin=config.mask_margin,
        most=limits.max_instances,
    )
    if rename is not None and mask_of:
        renamed_QK = rename(scores_QK, mask_of)
        chosen = choose(renamed_QK, limits.threshold, None, maps, stage, each)
    return _instances(job, chosen, mask_of), computed


def _instances(job: Job, chosen: Selection, mask_of: dict[int, dict[str, Any]]) -> Instances:
    """What was chosen and has a mask, under the names as they were given."""
    kept = [i for i, query in enumerate(chosen.queries_N.tolist()) if query in mask_of]
    rles = [mask_of[query] for query in chosen.queries_N[kept].tolist()]
    column_N = chosen.columns_N[kept].tolist()
    labels, positions = job.prompt.labels, job.prompt.positions
    return Instances(
        image_size=job.frame.original,
        rles=rles,
        boxes_xyxy=boxes_of_masks(rles),
        scores=chosen.scores_N[kept].numpy().astype(np.float32),
        names=[labels[column] for column in column_N],
        name_ids=np.array([positions[column] for column in column_N], np.int64),
        instance_ids=_numbered(chosen.queries_N[kept].tolist()),
        source=job.source,
    )


def _numbered(queries: list[int]) -> NDArray[np.int64]:
    """Each query's number in the order of first appearance."""
    number = {query: i for i, query in enumerate(dict.fromkeys(queries))}
    return np.array([number[query] for query in queries], np.int64)


def boxes_of_masks(rles: list[dict[str, Any]]) -> NDArray[np.float32]:
    """Boxes xyxy [N, 4] around masks that are not empty.

    The network's own boxes guide its queries but fit less well than its masks do
    (docs/experiments.md), and users expect that a box bounds its mask.
    """
    if not rles:
        return np.zeros((0, 4), np.float32)
    boxes_N4 = np.asarray(coco_mask.toBbox(rles), np.float32)
    boxes_N4[:, 2:] += boxes_N4[:, :2]
    return boxes_N4
