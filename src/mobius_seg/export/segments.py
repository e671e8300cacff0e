"""The network in parts that a runtime chains: before the decoder, one for each layer, the masks.

A graph of fixed shapes cannot look at each picture; a chain of graphs can. Between two of them the
caller reads one confidence a query, drops hopeless ones and stops when nothing changes any more:
see :mod:`mobius_seg.export.chain`. Each segment takes any number of queries of one picture.

Shapes: Q queries, K names, C width, M width of mask vectors, N tokens of the memory, h heads,
D = C / h; the batch is one picture.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.calibration import name_scores, stage_confidence, with_quality
from mobius_seg.config import ModelConfig
from mobius_seg.decoder import ProjectedMemory
from mobius_seg.errors import InputError
from mobius_seg.export.graph import ExportGraph
from mobius_seg.export.spec import IMAGE, TEXT
from mobius_seg.model import Mobius
from mobius_seg.naming import NameEvidence

STATE = ("query", "boxes", "confidence")
"""What goes from stage to stage, with the confidence that the caller decides by."""
CONTEXT = ("columns", "key", "value", "name_map", "name_features")
"""What every layer reads of the picture: text columns, memory, name vectors, mask features at the
stride of the name map; the last two are left out of a network without name map."""
ANSWER = ("scores", "objectness", "mask_vectors")
"""What is read off a layer."""
FEATURES = "mask_features"


def check_segments(config: ModelConfig) -> None:
    """See that a network can be cut into segments.

    Raises:
        InputError: its layers read more of the picture than one memory that they share.
    """
    plain = config.cross_attention == "plain" and config.share_value_projection
    if not plain or config.box_reading:
        raise InputError(
            f"{config.name} cannot be cut into segments: its decoder layers do not share one plain"
            " memory; allowed: models made for phones (mobius-p, mobius-n, mobius-s)"
        )


class EncodeSegment(nn.Module):
    """Everything up to the query selection.

    Args:
        graph: whose network it is, names and text side included; its schedule says how many
            queries are selected.
    """

    def __init__(self, graph: ExportGraph) -> None:
        """See the class."""
        super().__init__()
        self.whole = graph  # fx modules have a `graph` of their own
        check_segments(graph.network.config)

    def forward(self, image: Tensor, text: Tensor | None = None) -> tuple[Tensor, ...]:
        """Encode a picture.

        Args:
            image: float32 [1, 3, H, W], RGB in 0..1.
            text: float32 [K, D], where the vocabulary is an input.

        Returns:
            :data:`STATE` (query [1, Q, C], boxes [1, Q, 4], confidence [1, Q]), :data:`CONTEXT`
            (columns [1, K, C], key and value [1, h, N, D], name map [1, C, y, x], name features
            [1, M, y, x]) and :data:`FEATURES` [1, M, H / 4, W / 4].
        """
        network = self.whole.network
        encoded = self.whole.encode(image, text)
        most = self.whole.policy.cap(1, network.config.queries)
        query_BQC, out, _ = network.decoder.select(
            encoded.maps, encoded.names, encoded.text_BKC, None, network.object_column, most
        )
        memory = network.decoder.memory_for(0, encoded.maps, None)
        assert memory.key is not None, "checked above"
        assert memory.value is not None, "checked above"
        confidence_BQ = stage_confidence(out, None, network.config.objectness_weight)
        state = (query_BQC, out.boxes_BQ4, confidence_BQ, encoded.text_BKC)
        names = () if encoded.names is None else _name_parts(encoded.names)
        return (*state, memory.key, memory.value, *names, encoded.mask_features_BMhw)


class LayerSegment(nn.Module):
    """One decoder layer and its heads.

    Args:
        network: of an export graph.
        index: of the layer, from 0.
        size: height and width of the picture in pixels.
    """

    def __init__(self, network: Mobius, index: int, size: tuple[int, int]) -> None:
        """See the class."""
        super().__init__()
        check_segments(network.config)
        self.network = network
        self.index = index
        strides = sorted(network.config.memory_strides)
        self.shapes = [(-(-size[0] // s), -(-size[1] // s)) for s in strides]

    def forward(
        self,
        query: Tensor,
        boxes: Tensor,
        columns: Tensor,
        key: Tensor,
        value: Tensor,
        name_map: Tensor | None = None,
        name_features: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Run the layer on the queries that are left.

        Args:
            query: [1, Q, C] of the stage before.
            boxes: [1, Q, 4] cxcywh in 0..1.
            columns: of :class:`EncodeSegment`, like all that follow.
            key: [1, h, N, D].
            value: [1, h, N, D].
            name_map: [1, C, y, x].
            name_features: [1, M, y, x].

        Returns:
            :data:`STATE` and :data:`ANSWER` (scores [1, Q, K], objectness [1, Q], mask vectors
            [1, Q, M]).
        """
        names = None
        if name_map is not None and name_features is not None:
            names = NameEvidence(name_map, name_features)
        network, alpha = self.network, self.network.config.objectness_weight
        memory = ProjectedMemory(self.shapes, key, value, None)
        query, out = network.decoder.advance(
            self.index, query, boxes, memory, names, columns, network.object_column
        )
        scores_BQK = name_scores(out.logits_BQK, out.object_logits_BQ, None, alpha)
        scores_BQK = with_quality(scores_BQK, out.quality_logits_BQ)
        confidence_BQ = stage_confidence(out, None, alpha)
        answer = (scores_BQK, out.object_logits_BQ.sigmoid(), out.mask_embed_BQM)
        return (query, out.boxes_BQ4, confidence_BQ, *answer)


class MaskSegment(nn.Module):
    """Masks of the queries that are shown."""

    def forward(self, mask_vectors: Tensor, mask_features: Tensor) -> Tensor:
        """[1, Q, M] and [1, M, y, x] -> logits [1, Q, y, x]."""
        masks_BQN = torch.matmul(mask_vectors, mask_features.flatten(2))
        size = mask_features.shape[2:]
        return masks_BQN.reshape(mask_vectors.shape[0], mask_vectors.shape[1], *size)


def _name_parts(names: NameEvidence) -> tuple[Tensor, Tensor]:
    return names.names_BChw, names.mask_features_BMhw


def context_names(config: ModelConfig) -> tuple[str, ...]:
    """The tensors of :data:`CONTEXT` that a network has."""
    return CONTEXT if config.name_map else CONTEXT[:3]


Parts = tuple[nn.Module, tuple[Tensor, ...], list[str], list[str], dict[str, Any]]
"""A module with example inputs, names of inputs and outputs, dimensions that vary."""


def segment_parts(graph: ExportGraph, size: tuple[int, int], depth: int) -> dict[str, Parts]:
    """Every segment with what an exporter needs, in the order in which they run.

    Args:
        graph: of the network and its vocabulary.
        size: height and width in pixels.
        depth: layers that may run.

    Returns:
        By name: ``encode``, ``layer_1`` ..., ``masks``.
    """
    config = graph.network.config
    context = context_names(config)
    encode = EncodeSegment(graph)
    inputs: tuple[Tensor, ...] = (torch.rand(1, 3, *size),)
    if graph.dynamic:
        text = torch.randn(3, config.text_dim, generator=torch.Generator().manual_seed(0))
        inputs = (*inputs, F.normalize(text, dim=-1))
    with torch.no_grad():
        found = dict(zip((*STATE, *context, FEATURES), encode(*inputs), strict=True))
    queries: dict[int, object] = {1: torch.export.Dim("queries", min=1, max=config.queries)}
    names: dict[int, object] = {}
    if graph.dynamic:
        names[0] = torch.export.Dim("names", min=1, max=65536)
    texts = {1: names[0]} if names else {}
    shapes: dict[str, Any] = {IMAGE: {}, **({TEXT: names} if graph.dynamic else {})}
    parts: dict[str, Parts] = {
        "encode": (encode, inputs, list(shapes), [*STATE, *context, FEATURES], shapes)
    }
    fed = ("query", "boxes", *context)
    varying = {"query": queries, "boxes": queries, "columns": texts}
    few = {name: found[name] for name in fed}
    few |= {name: found[name][:, :7] for name in ("query", "boxes")}
    for index in range(depth):
        layer = LayerSegment(graph.network, index, size)
        shapes = {name: varying.get(name, {}) for name in fed}
        outputs = [f"next_{name}" for name in STATE]
        parts[f"layer_{index + 1}"] = (
            layer,
            tuple(few.values()),
            list(fed),
            [*outputs, *ANSWER],
            shapes,
        )
    vectors = torch.rand(1, 7, config.mask_width)
    shapes = {"mask_vectors": queries, FEATURES: {}}
    example = (vectors, found[FEATURES])
    parts["masks"] = (MaskSegment(), example, list(shapes), ["masks"], shapes)
    return parts
