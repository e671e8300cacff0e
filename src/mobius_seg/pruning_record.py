"""One full run of the decoder over a data set, kept so that policies can be tried without it.

For every image and stage: each query's confidence, name, box and the IoU of its mask with every
true instance. A policy is then simulated: which queries would still be there, where the decoder
would stop, what would come out. The simulation takes a pruned query to leave the others as they
were, duplicates of it gone; what it finds is checked by running (:mod:`mobius_seg.tune_pruning`).

Shapes: S stages (selection first), Q queries, M true instances, N detections, T IoU thresholds.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from mobius_seg.calibration import best_column, stage_confidence
from mobius_seg.calibration_file import NAMES
from mobius_seg.data.coco import CocoData, load_sized
from mobius_seg.evaluate.ap import MAX_DETECTIONS
from mobius_seg.planner import prompt_shape
from mobius_seg.postprocess import distinct_masks
from mobius_seg.predictor import Predictor
from mobius_seg.preprocess import make_frame, pad_and_stack, resize
from mobius_seg.prompts import Prompt, build_batch
from mobius_seg.pruned_decoder import decode, image_output
from mobius_seg.pruning import IdentityMaps, PruningPolicy, StageMaps, change
from mobius_seg.types import LayerOutput

IOU_THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """What the full decoder said about one image.

    Attributes:
        image: its row in the data set.
        scores_SQ: calibrated confidence, which pruning and results read.
        raw_SQ: the same before calibration.
        names_SQ: best name of each query.
        boxes_SQ4: cxcywh in 0..1.
        iou_SQM: of the query's mask with each true instance, in the picture's own size; 0 for what
            is not shown.
        shown_SQ: whether ``predict`` would return the query: among the best, its mask neither empty
            nor the duplicate of a better one.
        truth_M: names of the true instances (crowds left out).
        shape: what a cost depends on (:data:`mobius_seg.planner.Shape`).
    """

    image: int
    scores_SQ: Tensor
    raw_SQ: Tensor
    names_SQ: NDArray[np.int64]
    boxes_SQ4: Tensor
    iou_SQM: NDArray[np.float32]
    shown_SQ: NDArray[np.bool_]
    truth_M: NDArray[np.int64]
    shape: tuple[int, int, int, int]


@dataclass(frozen=True)
class Outcome:
    """What a policy would give on one image.

    Attributes:
        queries: how many queries run each stage, the selection first.
        kept: their original numbers at each stage.
    """

    queries: tuple[int, ...]
    kept: tuple[Tensor, ...]


@torch.inference_mode()
def record_image(
    predictor: Predictor, coco: CocoData, folder: Path, image: int, size: int
) -> ImageRecord:
    """Run the full decoder on one picture with all names of the data set.

    Args:
        predictor: the model.
        coco: the data set.
        folder: of its pictures.
        image: row of the picture.
        size: longest side of the input in pixels.
    """
    picture = load_sized(coco.images[image], folder, coco.path)
    frame = make_frame(picture.shape[0], picture.shape[1], size)
    pixels_13HW = pad_and_stack([resize(picture, frame)], frame).to(predictor.device)
    config, asked = predictor.config, [Prompt(names=tuple(coco.names))]
    prompt = build_batch(asked, predictor.text_encoder, config.fuse_subwords).to(predictor.device)
    encoded = predictor.network.encode(pixels_13HW, prompt)
    truth = [i for i in coco.by_image[image] if not coco.annotations[i].crowd]
    truth = [i for i in truth if coco.annotations[i].segmentation is not None]
    rles = [coco.rle(i) for i in truth]
    raws, scores, names, boxes, ious, shown = [], [], [], [], [], []
    layers: list[LayerOutput] = []
    calibration = predictor.calibration
    maps: StageMaps = IdentityMaps() if calibration is None else calibration.maps[NAMES]
    for (found,) in decode(predictor.network, encoded, PruningPolicy()):
        layers.append(found.layer)
        raw_Q = stage_confidence(found.layer, None, config.objectness_weight)[0]
        mask_of, _ = distinct_masks(
            image_output(encoded, 0, layers),
            raw_Q.cpu().sort(descending=True, stable=True).indices,
            frame,
            nms_iou=config.nms_iou,
            margin=config.mask_margin,
            most=MAX_DETECTIONS,
        )
        kept = list(mask_of)
        iou_QM = np.zeros((len(raw_Q), len(truth)), np.float32)
        if kept and truth:
            iou_QM[kept] = coco_mask.iou(list(mask_of.values()), rles, [0] * len(truth))
        shown.append(np.isin(np.arange(len(raw_Q)), kept))
        raws.append(raw_Q.cpu())
        scores.append(maps.apply(found.stage, raw_Q).cpu())
        names.append(best_column(found.layer.logits_BQK, None)[0].cpu().numpy())
        boxes.append(found.layer.boxes_BQ4[0].float().cpu())
        ious.append(iou_QM)
    return ImageRecord(
        image=image,
        scores_SQ=torch.stack(scores),
        raw_SQ=torch.stack(raws),
        names_SQ=np.stack(names),
        boxes_SQ4=torch.stack(boxes),
        iou_SQM=np.stack(ious),
        shown_SQ=np.stack(shown),
        truth_M=np.array([coco.annotations[i].name for i in truth], np.int64),
        shape=prompt_shape(pixels_13HW, prompt),
    )


Rank = Callable[[ImageRecord, int, Tensor], Tensor]
"""(record, stage, original numbers [q]) -> what pruning reads [q]."""


def simulate(
    record: ImageRecord, policy: PruningPolicy, threshold: float = 0.0, rank: Rank | None = None
) -> Outcome:
    """Which queries would run each stage under a policy.

    Args:
        record: of the full decoder.
        policy: what is pruned.
        threshold: lowest score that the caller would return.
        rank: replaces the confidence that pruning reads.
    """
    stages, queries = record.scores_SQ.shape
    depth = policy.depth(stages - 1)
    first = policy.cap(1, queries)
    kept = record.raw_SQ[0].topk(first).indices.sort().values if first < queries else None
    kept = torch.arange(queries) if kept is None else kept
    history = [kept]
    for stage in range(depth):
        score = rank(record, stage, kept) if rank else record.scores_SQ[stage, kept]
        (count,) = policy.counts(stage, score[None], threshold)
        going = kept[score.topk(count).indices.sort().values]
        if stage and policy.settle is not None:
            moved = change_at(record, stage, going)
            if policy.settled(record.scores_SQ[stage, going], moved):
                break
        kept = going
        history.append(kept)
    return Outcome(tuple(len(stage) for stage in history), tuple(history))


def change_at(record: ImageRecord, stage: int, kept: Tensor) -> float:
    """:func:`mobius_seg.pruning.change` of some queries between a stage and the one before."""
    return change(
        record.scores_SQ[stage, kept],
        record.scores_SQ[stage - 1, kept],
        record.boxes_SQ4[stage, kept],
        record.boxes_SQ4[stage - 1, kept],
    )


def true_positives(record: ImageRecord, iou: float = 0.5) -> NDArray[np.int64]:
    """Queries that end as true positives: matched by the last stage's masks, names aside."""
    score_Q = record.scores_SQ[-1].numpy()
    order = np.argsort(-score_Q, kind="stable")
    matched = match(record.iou_SQM[-1][order], np.array([iou]))[0]
    return np.sort(order[matched])


def match(iou_NM: NDArray[np.float32], thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which detections are true positives, best score first, as COCO matches them.

    Args:
        iou_NM: of N detections in the order of their scores with M true instances.
        thresholds: T least IoUs.

    Returns:
        bool [T, N]. Each takes the free true instance that it overlaps most.
    """
    steps, (count, truths) = len(thresholds), iou_NM.shape
    hit_TN = np.zeros((steps, count), np.bool_)
    if not truths:
        return hit_TN
    taken_TM = np.zeros((steps, truths), np.bool_)
    rows = np.arange(steps)
    for i in np.flatnonzero(iou_NM.max(1) >= thresholds[0]):
        free_TM = np.where(taken_TM, -1.0, iou_NM[i][None])
        best_T = free_TM.argmax(1)
        hit_T = free_TM[rows, best_T] >= thresholds
        hit_TN[:, i] = hit_T
        taken_TM[rows[hit_T], best_T[hit_T]] = True
    return hit_TN


def average_precision(
    records: Sequence[ImageRecord], outcomes: Iterable[Outcome], *, named: bool
) -> tuple[float, float]:
    """Mask AP (COCO's 101 points, IoU 0.5 to 0.95) and recall of what policies would give.

    Args:
        records: one an image.
        outcomes: one an image.
        named: whether names are judged.

    Returns:
        AP and recall, means over names and IoU thresholds; NaN without a true instance.
    """
    found: dict[int, list[tuple[NDArray[np.float32], NDArray[np.bool_]]]] = {}
    truths: dict[int, int] = {}
    for record, outcome in zip(records, outcomes, strict=True):
        stage, kept = len(outcome.queries) - 1, outcome.kept[-1].numpy()
        kept = kept[record.shown_SQ[stage][kept]]
        score = record.scores_SQ[stage].numpy()[kept]
        kept = kept[np.argsort(-score, kind="stable")[:MAX_DETECTIONS]]
        score, iou = record.scores_SQ[stage].numpy()[kept], record.iou_SQM[stage][kept]
        name = record.names_SQ[stage][kept] if named else np.zeros(len(kept), np.int64)
        truth = record.truth_M if named else np.zeros_like(record.truth_M)
        for label in set(truth.tolist()) | set(name.tolist()):
            mine = name == label
            truths[label] = truths.get(label, 0) + int((truth == label).sum())
            hits = match(iou[mine][:, truth == label], IOU_THRESHOLDS)
            found.setdefault(label, []).append((score[mine], hits))
    figures = [_of_name(found[label], count) for label, count in truths.items() if count]
    if not figures:
        return float("nan"), float("nan")
    precision, recall = np.mean(figures, axis=0)
    return float(precision), float(recall)


_POINTS = np.linspace(0, 1, 101)
_FEW = 64


def _of_name(
    found: list[tuple[NDArray[np.float32], NDArray[np.bool_]]], truths: int
) -> tuple[float, float]:
    """AP and recall of one name."""
    scores = np.concatenate([score for score, _ in found])
    hits_TN = np.concatenate([hit for _, hit in found], axis=1)
    hits_TN = hits_TN[:, np.argsort(-scores, kind="stable")]
    if not hits_TN.shape[1]:
        return 0.0, 0.0
    right_TN = hits_TN.cumsum(1)
    precision_TN = right_TN / np.arange(1, hits_TN.shape[1] + 1)
    precision_TN = np.maximum.accumulate(precision_TN[:, ::-1], axis=1)[:, ::-1]
    recall_TN = right_TN / truths
    if recall_TN.shape[1] <= _FEW:  # the same, many times faster than a search a row
        at_TP = (recall_TN[:, None] < _POINTS[:, None]).sum(-1)
    else:
        at_TP = np.stack([np.searchsorted(recall_N, _POINTS) for recall_N in recall_TN])
    padded_TN = np.pad(precision_TN, ((0, 0), (0, 1)))
    precision = float(np.take_along_axis(padded_TN, at_TP, axis=1).mean())
    return precision, float(recall_TN[:, -1].mean())
