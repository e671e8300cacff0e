"""Runs the decoder under a policy: each image with its own queries and its own number of layers.

Images of a batch that keep equally many queries run together; an image that has stopped runs no
more. Nothing is padded, so what is executed is what a receipt says. While every image keeps all
its queries the batch stays whole and the same operators run as in
:meth:`mobius_seg.decoder.Decoder.forward`: the result is equal to its bit for bit.

Shapes: B images of a batch or b of a group, Q queries, q those that an image still has, C width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mobius_seg.calibration import stage_confidence
from mobius_seg.decoder import ProjectedMemory
from mobius_seg.layers import rows_of
from mobius_seg.model import Mobius
from mobius_seg.naming import NameEvidence
from mobius_seg.pruning import IdentityMaps, PruningPolicy, StageMaps, change
from mobius_seg.types import Encoded, LayerOutput, ModelOutput

Ranker = Callable[[int, int, Tensor, Tensor], Tensor]
"""(stage, image, original query numbers [q], confidence [q]) -> what pruning reads instead [q]."""


@dataclass(frozen=True)
class StageResult:
    """One image after one stage.

    Attributes:
        image: row of the batch.
        stage: 0 = the query selection, else the layer.
        layer: its predictions, [1, q, ...].
        index_Q: original number of each query, ascending.
        queries: how many queries ran each stage so far, the selection first.
        last: whether the image stops here.
    """

    image: int
    stage: int
    layer: LayerOutput
    index_Q: Tensor
    queries: tuple[int, ...]
    last: bool


@dataclass(frozen=True)
class PrunedOutput:
    """What the network says about one image.

    Attributes:
        output: one entry per stage that ran. B = 1.
        index_Q: original number of each query of the last stage.
        queries: how many queries ran each stage, the selection first.
    """

    output: ModelOutput
    index_Q: Tensor
    queries: tuple[int, ...]


@dataclass(frozen=True)
class _Group:
    """Images with equally many queries, between two stages."""

    images: list[int]
    query_BQC: Tensor
    layer: LayerOutput
    index_BQ: Tensor
    before_BQ: Tensor | None  # confidence and boxes of the stage before
    boxes_before_BQ4: Tensor | None
    queries: tuple[tuple[int, ...], ...]  # per image


def run_pruned(
    network: Mobius,
    encoded: Encoded,
    policy: PruningPolicy,
    *,
    threshold: float = 0.0,
    maps: StageMaps | None = None,
    rank: Ranker | None = None,
) -> list[PrunedOutput]:
    """Decode a batch under a policy.

    Args:
        network: in evaluation mode.
        encoded: what :meth:`mobius_seg.model.Mobius.encode` gave.
        policy: what is pruned.
        threshold: lowest score that the caller will return.
        maps: calibrated confidence; None for the raw one.
        rank: replaces the confidence that pruning reads (experiments).

    Returns:
        One result an image.
    """
    layers: dict[int, list[LayerOutput]] = {}
    done: dict[int, PrunedOutput] = {}
    for results in decode(network, encoded, policy, threshold=threshold, maps=maps, rank=rank):
        for result in results:
            layers.setdefault(result.image, []).append(result.layer)
            if result.last:
                output = image_output(encoded, result.image, layers.pop(result.image))
                done[result.image] = PrunedOutput(output, result.index_Q, result.queries)
    return [done[image] for image in range(len(done))]


def image_output(encoded: Encoded, image: int, layers: list[LayerOutput]) -> ModelOutput:
    """The stages of one image of a batch as the output of a batch of one."""
    text = encoded.text_BKC
    return ModelOutput(
        layers,
        encoded.mask_features_BMhw[image : image + 1],
        text[image : image + 1] if text.shape[0] > 1 else text,
        columns_BK=None if encoded.columns_BK is None else encoded.columns_BK[image : image + 1],
    )


@torch.no_grad()
def decode(
    network: Mobius,
    encoded: Encoded,
    policy: PruningPolicy,
    *,
    threshold: float = 0.0,
    maps: StageMaps | None = None,
    rank: Ranker | None = None,
) -> Iterator[list[StageResult]]:
    """Decode a batch stage by stage.

    Args:
        network: in evaluation mode.
        encoded: what :meth:`mobius_seg.model.Mobius.encode` gave.
        policy: what is pruned.
        threshold: lowest score that the caller will return.
        maps: calibrated confidence; None for the raw one.
        rank: replaces the confidence that pruning reads (experiments).

    Yields:
        The images that ran a stage, in no order, at stage 0, 1, ...
    """
    decoder, alpha = network.decoder, network.config.objectness_weight
    maps = maps or IdentityMaps()
    depth = policy.depth(len(decoder.layers))
    groups = [_select(network, encoded, policy)]
    memory: ProjectedMemory | None = None
    for stage in range(depth + 1):
        results: list[StageResult] = []
        moves: list[tuple[_Group, list[int], Tensor, Tensor]] = []
        for group in groups:
            mask_BK = _rows(encoded.column_mask_BK, group.images)
            raw_BQ = stage_confidence(group.layer, mask_BK, alpha)
            score_BQ = maps.apply(stage, raw_BQ)
            if rank is not None:
                rows = zip(group.images, group.index_BQ, score_BQ, strict=True)
                score_BQ = torch.stack([rank(stage, i, index, score) for i, index, score in rows])
            counts = policy.counts(stage, score_BQ, threshold)
            order_BQ = score_BQ.topk(max(counts), dim=1).indices
            stops = [
                stage == depth or _settled(policy, group, row, order_BQ[row, :count], score_BQ)
                for row, count in enumerate(counts)
            ]
            results += _results(group, stage, stops)
            going = [0 if stop else count for stop, count in zip(stops, counts, strict=True)]
            moves.append((group, going, order_BQ, score_BQ))
        yield results
        groups = _regroup(moves)
        if not groups:
            return
        running = sorted(image for group in groups for image in group.images)
        if decoder.memory is None and len(running) < encoded.mask_features_BMhw.shape[0]:
            maps_of = {stride: level[running] for stride, level in encoded.maps.items()}
            memory = decoder.memory_for(stage, maps_of, None)
        else:  # shared by all layers: projected once, for the whole batch
            running = list(range(encoded.mask_features_BMhw.shape[0]))
            memory = decoder.memory_for(stage, encoded.maps, memory)
        groups = [_advance(network, encoded, group, memory, running, stage) for group in groups]


def _select(network: Mobius, encoded: Encoded, policy: PruningPolicy) -> _Group:
    """Stage 0 of the whole batch."""
    batch = encoded.mask_features_BMhw.shape[0]
    queries = policy.cap(1, network.config.queries)
    query, layer, _ = network.decoder.select(
        encoded.maps,
        encoded.names,
        encoded.text_BKC,
        encoded.column_mask_BK,
        network.object_column,
        queries,
    )
    count = query.shape[1]
    index_BQ = torch.arange(count, device=query.device).expand(batch, count)
    return _Group(list(range(batch)), query, layer, index_BQ, None, None, ((count,),) * batch)


def _advance(
    network: Mobius,
    encoded: Encoded,
    group: _Group,
    memory: ProjectedMemory,
    running: list[int],
    index: int,
) -> _Group:
    """Run one layer on a group; ``running`` are the images that the memory holds."""
    images, batch = group.images, encoded.mask_features_BMhw.shape[0]
    text = encoded.text_BKC
    every = images == list(range(batch))
    query, layer = network.decoder.advance(
        index,
        group.query_BQC,
        group.layer.boxes_BQ4,
        memory_rows(memory, [running.index(image) for image in images], len(running)),
        _names_of(encoded, images, every),
        rows_of(text, images) if text.shape[0] > 1 and not every else text,
        network.object_column,
        _rows(encoded.column_mask_BK, images),
    )
    counts = tuple((*before, query.shape[1]) for before in group.queries)
    boxes_before = group.layer.boxes_BQ4
    return replace(
        group, query_BQC=query, layer=layer, boxes_before_BQ4=boxes_before, queries=counts
    )


def _names_of(encoded: Encoded, images: list[int], every: bool) -> NameEvidence | None:
    """Name vectors of some images of a batch."""
    names = encoded.names
    return names if names is None or every else names.rows(images)


def memory_rows(memory: ProjectedMemory, images: list[int], batch: int) -> ProjectedMemory:
    """The memory of some images of a batch of ``batch``; all of them: the memory itself."""
    if images == list(range(batch)):
        return memory
    values = None
    if memory.values is not None:
        by_image = [v.reshape(batch, -1, *v.shape[1:]) for v in memory.values]
        values = [rows_of(v, images).flatten(0, 1) for v in by_image]
    return ProjectedMemory(
        memory.shapes,
        _rows(memory.key, images),
        _rows(memory.value, images),
        values,
        _rows(memory.box_map, images),
    )


def _rows(tensor: Tensor | None, images: list[int]) -> Tensor | None:
    """Rows of a batch; what is shared by the batch or None stays."""
    return tensor if tensor is None or tensor.shape[0] == 1 else rows_of(tensor, images)


def _settled(
    policy: PruningPolicy, group: _Group, row: int, kept: Tensor, score_BQ: Tensor
) -> bool:
    """Whether an image may stop before the last layer; never before it has run one."""
    if policy.settle is None or group.before_BQ is None or group.boxes_before_BQ4 is None:
        return False
    score, boxes = score_BQ[row, kept], group.layer.boxes_BQ4[row, kept]
    before, boxes_before = group.before_BQ[row, kept], group.boxes_before_BQ4[row, kept]
    return policy.settled(score, change(score, before, boxes, boxes_before))


def _results(group: _Group, stage: int, stops: list[bool]) -> list[StageResult]:
    """What a stage says about each image of a group."""
    layer = group.layer
    results = []
    for row, image in enumerate(group.images):
        one = slice(row, row + 1)
        quality = layer.quality_logits_BQ
        out = LayerOutput(
            layer.logits_BQK[one],
            layer.object_logits_BQ[one],
            layer.boxes_BQ4[one],
            layer.mask_embed_BQM[one],
            quality_logits_BQ=None if quality is None else quality[one],
        )
        results.append(
            StageResult(image, stage, out, group.index_BQ[row], group.queries[row], stops[row])
        )
    return results


def _regroup(moves: list[tuple[_Group, list[int], Tensor, Tensor]]) -> list[_Group]:
    """New groups of the images that go on, by their number of queries; each keeps its order."""
    parts: dict[int, list[_Group]] = {}
    for group, going, order_BQ, score_BQ in moves:
        for count in sorted(set(going) - {0}, reverse=True):
            rows = [row for row, own in enumerate(going) if own == count]
            part = _take(group, rows, order_BQ, score_BQ, count)
            parts.setdefault(count, []).append(part)
    return [found[0] if len(found) == 1 else _join(found) for found in parts.values()]


def _take(group: _Group, rows: list[int], order_BQ: Tensor, score_BQ: Tensor, count: int) -> _Group:
    """The ``count`` best queries of some images of a group, in their order."""
    if count == group.query_BQC.shape[1] and len(rows) == len(group.images):
        return replace(group, before_BQ=score_BQ)
    kept = order_BQ[rows, :count].sort(1).values

    def pick(values: Tensor) -> Tensor:
        index = kept if values.dim() == 2 else kept[..., None].expand(-1, -1, values.shape[2])
        return values[rows].gather(1, index)

    # Only the boxes are read further on; what else the stage said went into its result.
    layer = LayerOutput(
        group.layer.logits_BQK[rows, :0],
        group.layer.object_logits_BQ[rows, :0],
        pick(group.layer.boxes_BQ4),
        group.layer.mask_embed_BQM[rows, :0],
    )
    return _Group(
        [group.images[row] for row in rows],
        pick(group.query_BQC),
        layer,
        pick(group.index_BQ),
        pick(score_BQ),
        None,
        tuple(group.queries[row] for row in rows),
    )


def _join(parts: list[_Group]) -> _Group:
    """Groups with equally many queries as one."""

    def join(values: list[Tensor]) -> Tensor:
        return torch.cat(values, 0)

    befores = [part.before_BQ for part in parts if part.before_BQ is not None]
    layer = LayerOutput(
        parts[0].layer.logits_BQK[:0],
        parts[0].layer.object_logits_BQ[:0],
        join([part.layer.boxes_BQ4 for part in parts]),
        parts[0].layer.mask_embed_BQM[:0],
    )
    return _Group(
        [image for part in parts for image in part.images],
        join([part.query_BQC for part in parts]),
        layer,
        join([part.index_BQ for part in parts]),
        join(befores),
        None,
        tuple(counts for part in parts for counts in part.queries),
    )
