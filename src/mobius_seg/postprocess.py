"""From the network's output to instances in the original picture's size.

Shapes: Q queries, K names, N kept instances, H and W of the original picture, h and w of the mask
logits (a quarter of the padded input).

The mask logits are read at the centre of every original pixel by bilinear interpolation, which is
what enlarging to the padded input, cropping the padding and resizing to the original would give up
to interpolating twice. An interpolated value is positive only where one of its four sources is, so
only the rows and columns between an instance's outermost positive logits are computed, a strip at
a time: memory stays bounded whatever the picture's size and the number of instances.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from mobius_seg.calibration import name_scores, with_quality
from mobius_seg.preprocess import Frame
from mobius_seg.pruning import StageMaps
from mobius_seg.run_lengths import edges_to_rle, run_edges
from mobius_seg.types import ModelOutput

MASK_STRIDE = 4
_STRIP_VALUES = 4_000_000  # float32 values of one strip: 16 MB
_OFF = -10.0  # logit outside of a mask's box
_CHUNK_VALUES = 16_000_000  # mask logits of one chunk of instances: 64 MB


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The kept queries of one image under their best names, best score first.

    Attributes:
        queries_N: int64 [N]; a query comes once for each of its names that is kept.
        columns_N: int64 [N], the column of the prompt (0 without names).
        scores_N: float32 [N], mapped where maps were given.
    """

    queries_N: Tensor
    columns_N: Tensor
    scores_N: Tensor

    def shown(self) -> Tensor:
        """Each kept query once, in the order of its best score: int64 [M]."""
        return torch.tensor(list(dict.fromkeys(self.queries_N.tolist())), dtype=torch.int64)


def select(
    output: ModelOutput,
    index: int,
    columns: int,
    objectness_weight: float,
    threshold: float,
    max_instances: int | None = None,
    maps: StageMaps | None = None,
    names_each: int = 1,
) -> Selection:
    """Keep the queries of one image whose best name reaches the threshold.

    A query is one instance, under its best name unless more are asked for; equal scores keep the
    order of the queries.

    Args:
        output: of the network.
        index: of the image in the batch.
        columns: K, how many columns of the prompt are this image's; 0 for class-agnostic.
        objectness_weight: alpha of :func:`mobius_seg.calibration.name_scores`.
        threshold: lowest score kept, after the maps.
        max_instances: how many queries are kept at most; None for all.
        maps: give scores their calibrated values; the order stays that of the scores themselves.
        names_each: best names that a kept query comes under, as far as they reach the threshold.
    """
    scores_QK = query_scores(output, index, columns, objectness_weight)
    stage = len(output.layers) - 1
    return choose(scores_QK, threshold, max_instances, maps, stage, names_each)


def query_scores(output: ModelOutput, index: int, columns: int, objectness_weight: float) -> Tensor:
    """Score of each name for each query of one image, before any map: [Q, K].

    Args:
        output: of the network.
        index: of the image in the batch.
        columns: K, how many columns of the prompt are this image's; without any the scores are
            those of the object column, [Q, 1].
        objectness_weight: alpha of :func:`mobius_seg.calibration.name_scores`.
    """
    layer = output.layers[-1]
    object_logits_1Q = layer.object_logits_BQ[index : index + 1].float()
    scores_1QK = object_logits_1Q.sigmoid()[..., None]
    if columns:
        logits_1QK = name_logits(output, index, columns)[None]
        scores_1QK = name_scores(logits_1QK, object_logits_1Q, None, objectness_weight)
        if output.columns_BK is not None:
            kept_M = output.columns_BK[index, : logits_1QK.shape[2]]
            scores_1QK = _over_all(scores_1QK[0], kept_M, columns)[None]
    quality_BQ = layer.quality_logits_BQ
    quality_1Q = None if quality_BQ is None else quality_BQ[index : index + 1].float()
    return with_quality(scores_1QK, quality_1Q)[0]


def name_logits(output: ModelOutput, index: int, columns: int) -> Tensor:
    """Logits of the names of one image that went through the decoder: [Q, M], M = K for most.

    Args:
        output: of the network.
        index: of the image in the batch.
        columns: K, at least 1: how many columns of the prompt are this image's.
    """
    kept_K = None if output.columns_BK is None else output.columns_BK[index]
    real = columns if kept_K is None else int((kept_K < columns).sum())
    return output.layers[-1].logits_BQK[index, :, :real].float()


def choose(
    scores_QK: Tensor,
    threshold: float,
    max_instances: int | None = None,
    maps: StageMaps | None = None,
    stage: int = 0,
    names_each: int = 1,
) -> Selection:
    """The same from scores, whoever computed them.

    Args:
        scores_QK: of :func:`query_scores`.
        threshold: as of :func:`select`, like what follows but the stage.
        max_instances: how many queries are kept at most.
        maps: give scores their calibrated values.
        stage: that the scores are of, for the maps.
        names_each: best names that a kept query comes under.
    """
    best_Qn, column_Qn = _best_names(scores_QK, min(names_each, scores_QK.shape[1]))
    best_Qn, column_Qn = best_Qn.cpu(), column_Qn.cpu()
    mapped_Qn = best_Qn
    if maps is not None:  # rounded first: a result stays at the threshold of its own score
        mapped_Qn = maps.apply(stage, best_Qn).to(best_Qn.dtype)
    order_Q = torch.sort(best_Qn[:, 0], descending=True, stable=True).indices
    kept_M = order_Q[mapped_Qn[order_Q, 0] >= threshold][:max_instances]
    each = best_Qn.shape[1]
    order_N = torch.sort(best_Qn[kept_M].flatten(), descending=True, stable=True).indices
    order_N = order_N[mapped_Qn[kept_M].flatten()[order_N] >= threshold]
    queries_N, name_N = kept_M[order_N // each], order_N % each
    return Selection(
        queries_N=queries_N,
        columns_N=column_Qn[queries_N, name_N],
        scores_N=mapped_Qn[queries_N, name_N],
    )


def _over_all(scores_QM: Tensor, kept_M: Tensor, columns: int) -> Tensor:
    """Scores of some columns as those of all: names that left score nothing. [Q, columns]."""
    every_QK = scores_QM.new_zeros(len(scores_QM), columns)
    return every_QK.scatter(1, kept_M.expand_as(scores_QM), scores_QM)


def _best_names(scores_QK: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best scores of each query, falling, and their columns: [Q, count] each."""
    if count == 1:  # of equal scores the first column, which topk does not promise
        best_Q1, column_Q1 = scores_QK.max(dim=-1, keepdim=True)
        return best_Q1, column_Q1
    found = scores_QK.topk(count, dim=-1)
    return found.values, found.indices


def without_duplicates(rles: list[dict[str, Any] | None], nms_iou: float) -> list[bool]:
    """Which masks stay: a mask goes if a better one overlaps it by ``nms_iou`` or more.

    One query an object is what the matching teaches, but a short training leaves some objects with
    two (non-maximum suppression on masks, names ignored; docs/experiments.md has what it gives).

    Args:
        rles: masks, best first; None (empty) never stays.
        nms_iou: IoU in 0..1; at 1 every mask that is not empty stays.

    Returns:
        A flag for each mask.
    """
    real = [i for i, rle in enumerate(rles) if rle is not None]
    stays = [rle is not None for rle in rles]
    if nms_iou >= 1 or len(real) < 2:
        return stays
    masks = [rles[i] for i in real]
    over_RR = np.asarray(coco_mask.iou(masks, masks, [0] * len(masks))) >= nms_iou
    for i in range(1, len(real)):
        better = [j for j in range(i) if stays[real[j]]]
        stays[real[i]] = not over_RR[i, better].any()
    return stays


@dataclass(frozen=True)
class QueryMasks:
    """Mask logits of one image's queries, computed when they are asked for.

    Attributes:
        boxes_Q4: cxcywh in 0..1 of the padded input.
        size: (h, w) of the logits.
        read: queries int64 [N] -> logits float [N, h, w].
    """

    boxes_Q4: Tensor
    size: tuple[int, int]
    read: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, output: ModelOutput, index: int, stage: int = -1) -> "QueryMasks":
        """From the network's output for one image of a batch, at a stage."""
        features_Mhw = output.mask_features_BMhw[index].float()
        embed_QM = output.layers[stage].mask_embed_BQM[index].float()

        def read(queries_N: Tensor) -> Tensor:
            rows_NM = embed_QM[queries_N.to(embed_QM.device)]
            return torch.einsum("nm,mhw->nhw", rows_NM, features_Mhw)

        size = (features_Mhw.shape[1], features_Mhw.shape[2])
        return cls(output.layers[stage].boxes_BQ4[index].float(), size, read)


def distinct_masks(
    output: ModelOutput,
    ranked_M: Tensor,
    frame: Frame,
    *,
    nms_iou: float,
    margin: float,
    most: int,
    stage: int = -1,
) -> tuple[dict[int, dict[str, Any]], int]:
    """Masks of the best queries that are neither empty nor duplicates of a better one.

    What predictions, score maps and tuned policies are about. Queries follow until the limit is
    reached, so that none of its places goes to a duplicate.

    Args:
        output: of the network, B = 1.
        ranked_M: int64, queries, best first.
        frame: where the picture lies in the input.
        nms_iou: of :func:`without_duplicates`.
        margin: of :func:`encode_masks`.
        most: how many are kept at most.
        stage: whose masks, by default those of the last.

    Returns:
        Query -> its mask as RLE, best first, and how many masks were computed.
    """
    masks = QueryMasks.of(output, 0, stage)
    return distinct(masks, ranked_M, frame, nms_iou=nms_iou, margin=margin, most=most)


def distinct(
    masks: QueryMasks, ranked_M: Tensor, frame: Frame, *, nms_iou: float, margin: float, most: int
) -> tuple[dict[int, dict[str, Any]], int]:
    """The same from mask logits, whoever computes them; arguments as there."""
    kept: dict[int, dict[str, Any]] = {}
    computed = 0
    for some in torch.split(ranked_M, max(1, most)):
        found = encode_queries(masks, some, frame, margin)
        computed += len(some)
        stays = without_duplicates([*kept.values(), *found], nms_iou)[len(kept) :]
        for query, rle, stay in zip(some.tolist(), found, stays, strict=True):
            if rle is not None and stay and len(kept) < most:
                kept[query] = rle
        if len(kept) == most:
            break
    return kept, computed


def boxes_to_original(boxes_N4: Tensor, frame: Frame) -> NDArray[np.float32]:
    """Boxes cxcywh in 0..1 of the padded input to xyxy pixels [N, 4] of the original picture."""
    cx, cy, width, height = boxes_N4.float().cpu().unbind(-1)
    corners = torch.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], -1)
    padded_hw, resized_hw, original_hw = frame.padded, frame.resized, frame.original
    scale_xy = [padded_hw[i] / resized_hw[i] * original_hw[i] for i in (1, 0)]
    limit_xy = [original_hw[1], original_hw[0]]
    pixels = corners.numpy() * np.array(scale_xy * 2)
    return np.asarray(np.clip(pixels, 0, np.array(limit_xy * 2)), np.float32)


def encode_masks(
    output: ModelOutput,
    index: int,
    queries_N: Tensor,
    frame: Frame,
    stage: int = -1,
    margin: float = 0.0,
) -> list[dict[str, Any] | None]:
    """Masks of one image's queries in its original size.

    A mask ends at the query's own box enlarged by ``margin``: a product of vectors also lights up
    where something similar stands elsewhere (YOLACT, Bolya et al. 2019, crops as well).

    Args:
        output: of the network.
        index: of the image in the batch.
        queries_N: int64 [N], which queries.
        frame: where the picture lies in the input.
        stage: whose masks, by default those of the last.
        margin: factor of the box's sides, one cell of the logits added; 0 does not crop.

    Returns:
        N compressed COCO RLE with ``counts`` as str; None where the mask is empty.
    """
    return encode_queries(QueryMasks.of(output, index, stage), queries_N, frame, margin)


def encode_queries(
    masks: QueryMasks, queries_N: Tensor, frame: Frame, margin: float = 0.0
) -> list[dict[str, Any] | None]:
    """The same from mask logits, whoever computes them; arguments as there."""
    chunk = max(1, _CHUNK_VALUES // (masks.size[0] * masks.size[1]))
    rows, columns = (_positions(frame, axis, masks.size[axis]) for axis in (0, 1))
    rles: list[dict[str, Any] | None] = []
    for queries in torch.split(queries_N, chunk):
        logits_Nhw = masks.read(queries).cpu().numpy()
        boxes_N4 = masks.boxes_Q4[queries.to(masks.boxes_Q4.device)].cpu().numpy()
        for logits_hw, box in zip(logits_Nhw, boxes_N4, strict=True):
            inside_hw = _crop(logits_hw, box, margin) if margin > 0 else logits_hw
            rles.append(_encode(inside_hw, rows, columns, frame.original))
    return rles


def _crop(
    logits_hw: NDArray[np.float32], box: NDArray[np.float32], margin: float
) -> NDArray[np.float32]:
    """The logits, certainly off wherever a cell's centre lies outside the enlarged box."""
    inside = []
    for axis, cells in ((1, logits_hw.shape[0]), (0, logits_hw.shape[1])):
        centres = np.arange(cells) + 0.5
        reach = box[axis + 2] * cells * margin / 2 + 1
        inside.append(np.abs(centres - box[axis] * cells) <= reach)
    return np.where(inside[0][:, None] & inside[1][None], logits_hw, np.float32(_OFF))


@dataclass(frozen=True)
class _Axis:
    """Bilinear sampling along one axis: two sources a pixel and the weight of the second."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight: NDArray[np.float32]


def _positions(frame: Frame, axis: int, cells: int) -> _Axis:
    """Where the centres of the original pixels lie in the mask logits."""
    scale = frame.resized[axis] / frame.original[axis]
    centres = (np.arange(frame.original[axis]) + 0.5) * scale / MASK_STRIDE - 0.5
    centres = centres.clip(0, cells - 1)
    low = np.floor(centres).astype(np.int64)
    return _Axis(low, np.minimum(low + 1, cells - 1), (centres - low).astype(np.float32))


def _span(positive: NDArray[np.bool_], axis: _Axis) -> tuple[int, int]:
    """First and last + 1 of the original pixels that read a positive cell; (0, 0) if none does."""
    touched = np.flatnonzero(positive[axis.low] | positive[axis.high])
    return (int(touched[0]), int(touched[-1]) + 1) if touched.size else (0, 0)


def _encode(
    logits_hw: NDArray[np.float32], rows: _Axis, columns: _Axis, original: tuple[int, int]
) -> dict[str, Any] | None:
    """One instance's mask as RLE, or None if it is empty."""
    positive_hw = logits_hw > 0
    top, bottom = _span(np.logical_or.reduce(positive_hw, axis=1), rows)
    left, right = _span(np.logical_or.reduce(positive_hw, axis=0), columns)
    if top == bottom or left == right:
        return None
    edges = []
    # Strips of columns, because COCO masks run down the columns.
    step = max(1, _STRIP_VALUES // (bottom - top))
    for start in range(left, right, step):
        stop = min(start + step, right)
        strip_XY = _sample(logits_hw, rows, columns, (top, bottom), (start, stop)) > 0
        edges.append(run_edges(strip_XY, start * original[0] + top, original[0]))
    return edges_to_rle(np.concatenate(edges), original)


def _sample(
    logits_hw: NDArray[np.float32],
    rows: _Axis,
    columns: _Axis,
    span_y: tuple[int, int],
    span_x: tuple[int, int],
) -> NDArray[np.float32]:
    """Logits at a window of the original pixels, x first: [X, Y]."""
    y, x = slice(*span_y), slice(*span_x)
    weight_X1 = columns.weight[x, None]
    cells = logits_hw.T
    by_column = cells[columns.low[x]] * (1 - weight_X1) + cells[columns.high[x]] * weight_X1
    weight_Y = rows.weight[y]
    low, high = by_column[:, rows.low[y]], by_column[:, rows.high[y]]
    low *= 1 - weight_Y
    high *= weight_Y
    low += high
    return np.asarray(low, np.float32)
