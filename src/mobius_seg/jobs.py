"""One picture on its way from the caller to the network and back."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from mobius_seg.config import ModelConfig
from mobius_seg.imageio import load_image
from mobius_seg.instances import Instances
from mobius_seg.planner import Shape
from mobius_seg.postprocess import QueryMasks, Selection, choose, distinct, query_scores
from mobius_seg.preprocess import Frame, make_fixed_frame, make_frame, resize
from mobius_seg.prompts import Prompt
from mobius_seg.pruned_decoder import PrunedOutput
from mobius_seg.pruning import StageMaps
from mobius_seg.receipt import Receipt


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
    """

    threshold: float
    max_instances: int
    maps: StageMaps | None
    names_each: int = 1
    nms_iou: float | None = None
    pruning_maps: StageMaps | None = None
    pruning_threshold: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture on its way through the network.

    Attributes:
        index: its place among the pictures of the call.
        source: what the caller gave.
        prompt: what is asked for in it.
        frame: its sizes.
        pixels: uint8 RGB, resized.
    """

    index: int
    source: Any
    prompt: Prompt
    frame: Frame
    pixels: NDArray[np.uint8]


def read_job(
    source: Any, index: int, prompt: Prompt, size: int | tuple[int, int], where: str | None
) -> Job:
    """Read and resize a picture; only the resized pixels are kept.

    Args:
        source: what the caller gave.
        index: its place.
        prompt: what is asked for in it.
        size: longest side in pixels, or height and width of an input that fits every picture.
        where: what error messages call it.
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
    return Job(index=index, source=source, prompt=prompt, frame=frame, pixels=pixels)


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
    found, computed = build_instances(config, scores_QK, masks, job, limits, stage)
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
    return replace(found, receipt=receipt)


def build_instances(
    config: ModelConfig,
    scores_QK: Tensor,
    masks: QueryMasks,
    job: Job,
    limits: Limits,
    stage: int,
) -> tuple[Instances, int]:
    """Instances of one picture from what any runtime said about it.

    Args:
        config: of the network.
        scores_QK: of each column of the job's prompt (one where it has none), before any map.
        masks: of the same queries.
        job: the picture.
        limits: what is returned.
        stage: that the scores are of, for the maps.

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
