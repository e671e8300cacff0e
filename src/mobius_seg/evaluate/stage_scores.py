"""What every query of every stage said about a COCO data set, and what came of it.

Matching, at each stage of each picture on its own and in the picture's own size: the queries, by
falling confidence, each take the object of their best name that they overlap most and that is still
free. The quality of such a query is u = sqrt(IoU_box * IoU_mask) (the box IoU where an object has
no mask), that of any other 0. Hits are matched in the same way, but only with an IoU of the mask
(or box) of at least 0.5. Without names every object has the same one. A query counts unless

* its mask is empty, or the duplicate of a more confident one (``nms_iou`` of the configuration):
  ``predict`` and ``stream`` return neither;
* it is unmatched and lies mostly in a crowd region of its name;
* the file does not say whether its name is in the picture (federated annotation).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from mobius_seg.calibration import best_column, stage_confidence
from mobius_seg.config import ModelConfig
from mobius_seg.data.coco import CocoData, load_sized
from mobius_seg.errors import InputError
from mobius_seg.postprocess import boxes_to_original, distinct_masks
from mobius_seg.preprocess import Frame, make_frame, pad_and_stack, resize
from mobius_seg.prompts import Prompt, build_batch
from mobius_seg.types import ModelOutput, TextPrompt

if TYPE_CHECKING:
    from mobius_seg.predictor import Predictor

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

HIT_IOU = 0.5
_IN_CROWD = 0.5


@dataclass(frozen=True, kw_only=True)
class StageScores:
    """All pictures together: S stages, N queries, which keep their place from stage to stage.

    Attributes:
        confidence: [S, N] in 0..1, without any map.
        quality: [S, N] u.
        hits: bool [S, N].
        counts: bool [S, N], False where a query says nothing (see the module).
        names: int64 [S, N], row of the best name, 0 without names.
        objects: number of objects that are to be found.
        images: number of pictures.
    """

    confidence: Floats
    quality: Floats
    hits: Flags
    counts: Flags
    names: NDArray[np.int64]
    objects: int
    images: int


@torch.inference_mode()
def collect(
    predictor: "Predictor",
    coco: CocoData,
    folder: Path,
    rows: Iterable[int],
    *,
    named: bool,
    asked: int | None = None,
    size: int | None = None,
) -> StageScores:
    """Run a model over pictures of a data set and match every query of every stage.

    Args:
        predictor: its network runs, with nothing dropped.
        coco: the ground truth.
        folder: of its pictures.
        rows: indices of the pictures.
        named: ask for names of the file, or (False) for everything.
        asked: ask each picture for its own names and others of the file, drawn at random but the
            same ones each time, until there are so many; None asks for all of the file.
        size: longest side of the input in pixels, None for the model's own.

    Raises:
        InputError: a picture cannot be used, or the file is federated and no names are asked for,
            or ``asked`` is not a whole number from 1.
    """
    if asked is not None and (not isinstance(asked, int) or asked < 1):
        raise InputError(f"asked is {asked!r}; allowed: a whole number from 1, or None")
    if not named:
        coco.check_exhaustive()
    config = predictor.config
    row_of = {name: row for row, name in enumerate(coco.names)}
    whole = None if named and asked is not None else _prompt(predictor, coco.names, named)
    parts: list[list[NDArray[Any]]] = [[] for _ in range(5)]
    objects = images = 0
    for row in rows:
        entry = coco.images[row]
        frame = make_frame(entry.height, entry.width, size or config.input_size)
        pixels = resize(load_sized(entry, folder, coco.path), frame)
        texts, prompt = whole or _prompt(predictor, _names_for(coco, row, asked or 0), named)
        column_row = np.array([row_of[text] for text in texts] or [0], np.int64)
        output = predictor.network(pad_and_stack([pixels], frame).to(predictor.device), prompt)
        truth = _Truth(coco, row, named)
        objects, images = objects + truth.objects, images + 1
        stages = [
            _stage(output, stage, frame, truth, column_row if named else None, config)
            for stage in range(len(output.layers))
        ]
        for part, values in zip(parts, zip(*stages, strict=True), strict=True):
            part.append(np.stack(values))
    confidence, quality, hits, counts, names = (np.concatenate(part, axis=1) for part in parts)
    return StageScores(
        confidence=confidence,
        quality=quality,
        hits=hits,
        counts=counts,
        names=names,
        objects=objects,
        images=images,
    )


def _stage(
    output: ModelOutput,
    stage: int,
    frame: Frame,
    truth: "_Truth",
    column_row: NDArray[np.int64] | None,
    config: ModelConfig,
) -> tuple[NDArray[Any], ...]:
    """Confidence, quality, hit, what counts and name of every query of a stage, each [Q]."""
    layer = output.layers[stage]
    score_Q = stage_confidence(layer, None, config.objectness_weight)[0].float().cpu()
    name_Q = np.zeros(len(score_Q), np.int64)
    if column_row is not None:
        name_Q = column_row[best_column(layer.logits_BQK, None)[0].cpu().numpy()]
    scores = score_Q.double().numpy()
    return scores, *truth.judge(output, stage, frame, scores, name_Q, config), name_Q


def _names_for(coco: CocoData, row: int, count: int) -> list[str]:
    """The names of a picture's objects, and others up to ``count``; drawn by the row."""
    own = {coco.names[coco.annotations[i].name] for i in coco.by_image[row]}
    others = [name for name in coco.names if name not in own]
    drawn = np.random.default_rng(row).permutation(len(others))[: max(0, count - len(own))]
    return sorted(own | {others[i] for i in drawn}) or list(coco.names[:1])


def _prompt(
    predictor: "Predictor", names: Sequence[str], named: bool
) -> tuple[Sequence[str], TextPrompt]:
    """The columns of a prompt and what the network reads."""
    prompt = Prompt(names=tuple(names) if named else None)
    batch = build_batch([prompt], predictor.text_encoder, predictor.config.fuse_subwords)
    return (prompt.texts if named else []), batch.to(predictor.device)


class _Truth:
    """The objects of one picture."""

    def __init__(self, coco: CocoData, row: int, named: bool) -> None:
        image = coco.images[row]
        indices = coco.by_image[row]
        every = [coco.annotations[i] for i in indices]
        self.boxes_G4 = np.array([a.bbox for a in every], np.float64).reshape(-1, 4)
        self.names_G = np.array([a.name if named else 0 for a in every], np.int64)
        self.crowd_G = np.array([a.crowd for a in every], bool)
        self.rles = [coco.rle(i) for i in indices]
        self.objects = int((~self.crowd_G).sum())
        present = set(self.names_G.tolist()) if named else set()
        self.known: NDArray[np.int64] | None = None
        if image.absent is not None:
            self.known = np.array(sorted(present | set(image.absent if named else ())), np.int64)

    def judge(
        self,
        output: ModelOutput,
        stage: int,
        frame: Frame,
        score_Q: Floats,
        name_Q: NDArray[np.int64],
        config: ModelConfig,
    ) -> tuple[Floats, Flags, Flags]:
        """Quality, hits and what counts, each [Q], of one stage."""
        count = len(score_Q)
        quality_Q, hit_Q = np.zeros(count), np.zeros(count, bool)
        ranked = np.argsort(-score_Q, kind="stable")
        ranked = ranked[~_empty(output, stage, frame)[ranked]]
        mask_of, _ = distinct_masks(
            output,
            torch.from_numpy(ranked),
            frame,
            nms_iou=config.nms_iou,
            margin=config.mask_margin,
            most=count,
            stage=stage,
        )
        counts_Q = np.isin(np.arange(count), list(mask_of))
        boxes_Q4 = boxes_to_original(output.layers[stage].boxes_BQ4[0], frame).astype(np.float64)
        boxes_Q4[:, 2:] -= boxes_Q4[:, :2]
        same_QG = name_Q[:, None] == self.names_G[None]
        box_QG = np.zeros((count, len(self.names_G)))
        if box_QG.size:
            box_QG = np.asarray(coco_mask.iou(boxes_Q4, self.boxes_G4, [0] * len(self.names_G)))
        some = np.flatnonzero((same_QG & (box_QG > 0)).any(1) & counts_Q)
        iou_QG = np.where(same_QG, box_QG, 0.0)
        inside_Q = np.zeros(count, bool)
        if len(some):
            masks = [mask_of[query] for query in some.tolist()]
            iou_QG[some], inside_Q[some] = self._masks(masks, iou_QG[some])
        with_mask_G = np.array([rle is not None for rle in self.rles], bool)
        u_QG = np.where(with_mask_G, np.sqrt(np.where(same_QG, box_QG, 0.0) * iou_QG), iou_QG)
        order = some[np.argsort(-score_Q[some], kind="stable")]
        matched = greedy(u_QG[:, ~self.crowd_G], order, 0.0)
        quality_Q[list(matched)] = list(matched.values())
        hits = greedy(iou_QG[:, ~self.crowd_G], order, HIT_IOU)
        hit_Q[list(hits)] = True
        counts_Q &= ~(inside_Q & (quality_Q == 0))
        if self.known is not None:
            counts_Q &= np.isin(name_Q, self.known) | (quality_Q > 0)
        return quality_Q, hit_Q, counts_Q

    def _masks(self, found: list[dict[str, Any]], iou_NG: Floats) -> tuple[Floats, Flags]:
        """IoU with the masks in place of that with the boxes, and what lies mostly in a crowd."""
        iou_NG, name_NG = iou_NG.copy(), iou_NG > 0
        inside_N = np.zeros(len(found), bool)
        columns = [g for g, rle in enumerate(self.rles) if rle is not None]
        if not columns:
            return iou_NG, inside_N
        crowd = self.crowd_G[columns]
        overlap = np.asarray(
            coco_mask.iou(
                found,
                [self.rles[g] for g in columns],
                crowd.astype(np.uint8).tolist(),
            )
        )
        overlap = np.where(name_NG[:, columns], overlap, 0.0)
        iou_NG[:, columns] = overlap
        return iou_NG, np.asarray((overlap[:, crowd] > _IN_CROWD).any(1), np.bool_)


def greedy(worth_QG: Floats, order: NDArray[np.int64], least: float) -> dict[int, float]:
    """Queries take objects, each the free one that is worth most to it.

    Args:
        worth_QG: worth of each object to each query, [Q, G].
        order: the queries that choose, first come first served.
        least: a worth of 0, or below this, is no match.

    Returns:
        Query -> worth of its object.
    """
    taken: dict[int, float] = {}
    left_QG = worth_QG.copy()
    if not left_QG.shape[1]:
        return taken
    for query in order.tolist():
        best = int(left_QG[query].argmax())
        worth = float(left_QG[query, best])
        if worth > 0 and worth >= least:
            taken[query] = worth
            left_QG[:, best] = 0.0
    return taken


def _empty(output: ModelOutput, stage: int, frame: Frame) -> Flags:
    """Whether each query's mask is empty within the picture, [Q]."""
    height, width = (-(-side // 4) for side in frame.resized)
    features_Mhw: Tensor = output.mask_features_BMhw[0, :, :height, :width].float()
    embed_QM = output.layers[stage].mask_embed_BQM[0].float()
    highest_Q = torch.einsum("qm,mhw->qhw", embed_QM, features_Mhw).flatten(1).amax(1)
    return np.asarray((highest_Q <= 0).cpu().numpy(), np.bool_)
