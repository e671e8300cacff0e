"""The transformer decoder, whose layers and queries can be dropped."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mobius_seg.box_reading import BoxReader
from mobius_seg.calibration import stage_confidence
from mobius_seg.config import ModelConfig
from mobius_seg.deformable import DeformableAttention
from mobius_seg.heads import QueryHeads
from mobius_seg.layers import (
    MLP,
    FeedForward,
    SelfAttention,
    attend,
    flatten_map,
    grid_centers,
    merge_heads,
    sine_position,
    split_heads,
    token_maps,
)
from mobius_seg.naming import NameEvidence
from mobius_seg.selection import QuerySelection
from mobius_seg.types import DenseOutput, LayerOutput


class Memory(nn.Module):
    """Keys and values of the image tokens: one for all decoder layers, or one for each.

    Args:
        config: strides and form of the cross-attention.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        self.heads = config.heads
        self.plain = config.cross_attention == "plain"
        self.strides = tuple(sorted(config.memory_strides))
        self.norm = nn.LayerNorm(config.width)
        self.value = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width) if self.plain else None
        self.box_stride = config.box_stride
        self.box_map = (
            nn.Conv2d(config.width, config.box_reading, 1) if config.box_reading else None
        )

    def forward(self, maps: dict[int, Tensor]) -> "ProjectedMemory":
        """Maps by stride -> what :class:`DecoderLayer` reads."""
        levels = [maps[s] for s in self.strides]
        shapes = [(m.shape[2], m.shape[3]) for m in levels]
        tokens = torch.cat([flatten_map(m) for m in levels], 1)
        normed = self.norm(tokens)
        value = self.value(normed)
        box_map = None if self.box_map is None else self.box_map(maps[self.box_stride])
        if self.key is None:
            maps_of_heads = token_maps(value, shapes, self.heads)
            return ProjectedMemory(shapes, None, None, maps_of_heads, box_map)
        centers = torch.cat([grid_centers(h, w, tokens) for h, w in shapes])
        position = sine_position(centers, tokens.shape[2]).to(tokens.dtype)
        key = split_heads(self.key(normed + position), self.heads)
        return ProjectedMemory(shapes, key, split_heads(value, self.heads), None, box_map)


class ProjectedMemory:
    """Keys and values in the form that the cross-attention wants.

    Args:
        shapes: (height, width) of each level.
        key: [B, heads, N, D] (plain attention).
        value: [B, heads, N, D] (plain attention).
        values: one [B * heads, D, h, w] per level (deformable attention).
        box_map: [B, R, h, w] that is read over each box, where the layers do.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        key: Tensor | None,
        value: Tensor | None,
        values: Sequence[Tensor] | None,
        box_map: Tensor | None = None,
    ) -> None:
        """See the class."""
        self.shapes, self.key, self.value, self.values = list(shapes), key, value, values
        self.box_map = box_map


class BoxBias(nn.Module):
    """Attention bias from where a token lies relative to the query's box, one axis at a time.

    The idea of box-relative position bias (Plain-DETR, Lin et al. 2023): a small MLP on the signed,
    log-scaled distances to the two sides, for columns and for rows; the bias of a token is the sum.

    Args:
        heads: attention heads.
        hidden: hidden width.
    """

    def __init__(self, heads: int, hidden: int = 32) -> None:
        """See the class."""
        super().__init__()
        self.x, self.y = MLP(4, hidden, heads), MLP(4, hidden, heads)

    def forward(self, boxes_BQ4: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Boxes cxcywh in 0..1 and level shapes -> bias [B, heads, Q, N]."""
        center_BQ2, side_BQ2 = boxes_BQ4[..., :2], boxes_BQ4[..., 2:].clamp(min=1e-3)
        half_BQ2 = side_BQ2 * 0.5
        ends_BQ22 = torch.stack([center_BQ2 - half_BQ2, center_BQ2 + half_BQ2], -1)
        parts = []
        for height, width in shapes:
            column = self._axis(self.x, ends_BQ22[:, :, 0], side_BQ2[..., :1], width)
            row = self._axis(self.y, ends_BQ22[:, :, 1], side_BQ2[..., 1:], height)
            both = row[..., :, None] + column[..., None, :]
            parts.append(both.flatten(3))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _axis(self, mlp: MLP, ends_BQ2: Tensor, side_BQ1: Tensor, cells: int) -> Tensor:
        """Both ends and the side of a box along one axis -> [B, heads, Q, cells]."""
        at = (torch.arange(cells, device=ends_BQ2.device, dtype=torch.float32) + 0.5) / cells
        apart = at[:, None] - ends_BQ2[:, :, None]
        distance = torch.cat([apart * 8, apart / side_BQ1[..., None]], -1)
        scaled = distance.sign() * torch.log2(distance.abs() + 1) / 3
        bias: Tensor = mlp(scaled)
        return bias.permute(0, 3, 1, 2)


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention to the shared memory, feed-forward; all pre-norm.

    Args:
        config: widths and form of the cross-attention.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.self_attention = SelfAttention(width, config.heads)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_deformable: DeformableAttention | None = None
        if config.cross_attention == "deformable":
            levels = len(config.memory_strides)
            self.cross_deformable = DeformableAttention(
                width, config.heads, levels, config.deformable_points
            )
        else:
            self.cross_query = nn.Linear(width, width)
            self.cross_out = nn.Linear(width, width)
            self.box_bias = BoxBias(config.heads)
        self.box_reader = BoxReader(config) if config.box_reading else None
        self.feed_forward = FeedForward(width, config.decoder_ffn)

    def forward(
        self, query_BQC: Tensor, boxes_BQ4: Tensor, position_BQC: Tensor, memory: ProjectedMemory
    ) -> Tensor:
        """One round of reading.

        Args:
            query_BQC: [B, Q, C].
            boxes_BQ4: current boxes, cxcywh in 0..1.
            position_BQC: encoding of those boxes.
            memory: projected image tokens.

        Returns:
            [B, Q, C].
        """
        query_BQC = self.self_attention(query_BQC, position_BQC)
        normed = self.cross_norm(query_BQC) + position_BQC
        if self.cross_deformable is not None:
            assert memory.values is not None
            read = self.cross_deformable(normed, boxes_BQ4, memory.values)
        else:
            assert memory.key is not None
            assert memory.value is not None
            bias = self.box_bias(boxes_BQ4, memory.shapes).to(memory.key.dtype)
            query = split_heads(self.cross_query(normed), self.heads).to(memory.key.dtype)
            attended = attend(query, memory.key, memory.value, bias)
            read = self.cross_out(merge_heads(attended))
        if self.box_reader is not None:
            assert memory.box_map is not None
            read = read + self.box_reader(memory.box_map, boxes_BQ4)
        out: Tensor = self.feed_forward(query_BQC + read)
        return out


class Decoder(nn.Module):
    """Selection, then layers; any prefix of layers and any number of queries may run.

    Args:
        config: sizes.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        self.config = config
        self.selection = QuerySelection(config)
        shared = config.share_value_projection
        self.memory = Memory(config) if shared else None
        own = 0 if shared else config.decoder_layers
        self.memories = nn.ModuleList(Memory(config) for _ in range(own))
        self.position = MLP(config.width, config.width, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.heads = QueryHeads(config)

    def forward(
        self,
        maps: dict[int, Tensor],
        names: NameEvidence | None,
        text_BKC: Tensor,
        column_mask_BK: Tensor | None,
        object_C: Tensor,
        *,
        keep: Sequence[int] | None = None,
        layers: int | None = None,
    ) -> tuple[list[LayerOutput], DenseOutput | None]:
        """Run the selection and the layers.

        Args:
            maps: stride -> [B, C, h, w] after scatter.
            names: the picture's name vectors, None without a name map.
            text_BKC: [B or 1, K, C] columns.
            column_mask_BK: bool, True = a real column; None = all.
            object_C: [C].
            keep: queries that enter layer 1, 2, ... (the last entry repeats); None keeps all. With
                nothing dropped the result is that of the plain decoder, bit for bit.
            layers: number of layers to run; None runs all.

        Returns:
            One output per stage (the selection first), and the dense predictions in training.
        """
        depth = len(self.layers) if layers is None else layers
        first = self.config.queries if not keep else min(keep[0], self.config.queries)
        query, out, dense = self.select(maps, names, text_BKC, column_mask_BK, object_C, first)
        outputs = [out]
        boxes = out.boxes_BQ4.detach()
        memory: ProjectedMemory | None = None
        for i in range(depth):
            kept = None
            if keep and i > 0:
                query, boxes, kept = self._drop(
                    query, boxes, out, column_mask_BK, keep[min(i, len(keep) - 1)]
                )
            memory = self.memory_for(i, maps, memory)
            query, out = self.advance(
                i, query, boxes, memory, names, text_BKC, object_C, column_mask_BK
            )
            out = replace(out, kept_BQ=kept)
            outputs.append(out)
            boxes = out.boxes_BQ4.detach()
        return outputs, dense

    def select(
        self,
        maps: dict[int, Tensor],
        names: NameEvidence | None,
        text_BKC: Tensor,
        column_mask_BK: Tensor | None,
        object_C: Tensor,
        queries: int,
    ) -> tuple[Tensor, LayerOutput, DenseOutput | None]:
        """Stage 0: the query selection, completed by the heads' mask vectors.

        Args:
            maps: stride -> [B, C, h, w] after scatter.
            names: the picture's name vectors, None without a name map.
            text_BKC: [B or 1, K, C] columns.
            column_mask_BK: bool, True = a real column; None = all.
            object_C: [C].
            queries: how many to keep at most.

        Returns:
            As :meth:`QuerySelection.forward`.
        """
        query, out, dense = self.selection(maps, names, text_BKC, column_mask_BK, object_C, queries)
        normed = self.heads.norm(query)
        out = replace(out, mask_embed_BQM=self.heads.mask(normed))
        return (
            query,
            self.heads.with_quality(out, normed, text_BKC, column_mask_BK, object_C),
            dense,
        )

    def memory_for(
        self, index: int, maps: dict[int, Tensor], before: ProjectedMemory | None
    ) -> ProjectedMemory:
        """What a layer reads: projected once for all layers, or by each layer for itself.

        Args:
            index: of the layer, from 0.
            maps: stride -> [B, C, h, w] after scatter.
            before: what the layer before read, None for the first.
        """
        if self.memory is None:
            own: ProjectedMemory = self.memories[index](maps)
            return own
        if before is not None:
            return before
        shared: ProjectedMemory = self.memory(maps)
        return shared

    def advance(
        self,
        index: int,
        query_BQC: Tensor,
        boxes_BQ4: Tensor,
        memory: ProjectedMemory,
        names: NameEvidence | None,
        text_BKC: Tensor,
        object_C: Tensor,
        column_mask_BK: Tensor | None = None,
    ) -> tuple[Tensor, LayerOutput]:
        """Run one layer and its heads on any number of queries.

        Args:
            index: of the layer, from 0.
            query_BQC: [B, Q, C] queries that go in.
            boxes_BQ4: their boxes so far, cxcywh in 0..1.
            memory: projected image tokens of the same B images.
            names: their name vectors, None without a name map.
            text_BKC: [B or 1, K, C] columns.
            object_C: [C].
            column_mask_BK: bool, True = a real column; None = all.

        Returns:
            Queries [B, Q, C] that come out, and what is read off them.
        """
        position = self.position(sine_position(boxes_BQ4, query_BQC.shape[2]).to(query_BQC.dtype))
        query_BQC = self.layers[index](query_BQC, boxes_BQ4, position, memory)
        out = self.heads(query_BQC, boxes_BQ4, names, text_BKC, object_C, column_mask_BK)
        return query_BQC, out

    def _drop(
        self,
        query_BQC: Tensor,
        boxes_BQ4: Tensor,
        out: LayerOutput,
        column_mask_BK: Tensor | None,
        count: int,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keep the ``count`` most confident queries, in their order, and say which."""
        if count >= query_BQC.shape[1]:
            return query_BQC, boxes_BQ4, None
        score_BQ = stage_confidence(out, column_mask_BK, self.config.objectness_weight)
        index_BQ = score_BQ.topk(count, dim=1).indices.sort(1).values
        index = index_BQ[..., None]
        return (
            query_BQC.gather(1, index.expand(-1, -1, query_BQC.shape[2])),
            boxes_BQ4.gather(1, index.expand(-1, -1, 4)),
            index_BQ,
        )
