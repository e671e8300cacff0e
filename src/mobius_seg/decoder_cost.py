"""Multiply-accumulates of the decoder at any number of queries, from the counts of the profile.

Every part of the decoder costs a polynomial of at most second degree in its number of queries
(self-attention is the only part that pairs them). Three counts of :mod:`mobius_seg.profile`'s
dispatch counter on the meta device therefore fix it exactly, for one configuration, input size and
prompt. A test compares the polynomial with the counter at other numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from mobius_seg.config import ModelConfig
from mobius_seg.cost.dispatch import OperatorCounter as Counter
from mobius_seg.decoder import ProjectedMemory
from mobius_seg.model import Mobius
from mobius_seg.types import Encoded, TextPrompt

_SAMPLES = (1, 2, 3)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Quadratic:
    """A cost a + b q + c q^2 in multiply-accumulates, through its values at 1, 2 and 3.

    Attributes:
        at: the three values.
    """

    at: tuple[int, int, int]

    def __call__(self, queries: int) -> int:
        """The cost at a number of queries (Newton's form, exact in whole numbers)."""
        first, second, third = self.at
        step, bend = second - first, third - 2 * second + first
        q = queries - 1
        return first + step * q + bend * (q * (q - 1) // 2)


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """Multiply-accumulates of one image.

    Attributes:
        backbone: of the backbone.
        pixel_decoder: of the pixel decoder and the name map.
        text: of projecting the prompt.
        memory: of projecting the image tokens, once, if a layer runs.
        selection: of the query selection with its mask vectors, by queries selected.
        layer: of one layer with its heads, by queries that enter.
        mask: of one mask.
        tokens: how many tokens there are to select from.
    """

    backbone: int
    pixel_decoder: int
    text: int
    memory: int
    selection: Quadratic
    layer: Quadratic
    mask: int
    tokens: int

    @property
    def encoder(self) -> int:
        """Everything before the decoder."""
        return self.backbone + self.pixel_decoder + self.text

    def decoder(self, queries: Sequence[int], masks: int) -> int:
        """Cost of the decoder.

        Args:
            queries: how many ran each stage, the selection first.
            masks: how many masks were computed.
        """
        memory = self.memory if len(queries) > 1 else 0
        layers = sum(self.layer(count) for count in queries[1:])
        return self.selection(queries[0]) + memory + layers + masks * self.mask


def model_cost(
    config: ModelConfig, input_hw: tuple[int, int], columns: int, tokens: int = 0
) -> ModelCost:
    """Cost of a configuration, counted once and remembered.

    Args:
        config: any; nothing is computed and no weights are made.
        input_hw: padded height and width, multiples of 32.
        columns: columns of the prompt, K.
        tokens: sub-word tokens of an expression, 0 for names.

    Raises:
        InputError: the size is not a multiple of 32.
    """
    return _model_cost(config, input_hw, columns, tokens)


@lru_cache(maxsize=4)
def _meta_network(config: ModelConfig) -> Mobius:
    """The network without memory."""
    with torch.device("meta"):
        return Mobius(config).eval()


@lru_cache(maxsize=256)
def _model_cost(
    config: ModelConfig, input_hw: tuple[int, int], columns: int, tokens: int
) -> ModelCost:
    network = _meta_network(config)
    with torch.device("meta"):
        images_B3HW = torch.empty(1, 3, *input_hw)
        words = torch.empty(1, tokens, config.text_dim) if tokens else None
        prompt = TextPrompt(torch.empty(1, columns, config.text_dim), None, words)
        encoded, before = _counted(network, lambda: network.encode(images_B3HW, prompt))
        memory, memory_macs = _counted(
            None, lambda: network.decoder.memory_for(0, encoded.maps, None)
        )
        strides = network.decoder.selection.strides
        found = [_decoder_parts(network, encoded, memory, count) for count in _SAMPLES]
    selection, layer = (Quadratic(values) for values in zip(*found, strict=True))
    between = ("pixel_decoder", "name_map")
    pixel_decoder = sum(macs for part, macs in before.items() if part.startswith(between))
    backbone = before.pop("backbone")
    text = before.pop("text", 0)
    assert backbone + text + pixel_decoder == backbone + text + sum(before.values())
    return ModelCost(
        backbone=backbone,
        pixel_decoder=pixel_decoder,
        text=text,
        memory=sum(memory_macs.values()),
        selection=selection,
        layer=layer,
        mask=encoded.mask_features_BMhw[0].numel(),
        tokens=sum(encoded.maps[s].shape[2] * encoded.maps[s].shape[3] for s in strides),
    )


def _decoder_parts(
    network: Mobius, encoded: Encoded, memory: ProjectedMemory, queries: int
) -> tuple[int, int]:
    """Multiply-accumulates of the selection and of one layer."""
    text, column = encoded.text_BKC, network.object_column
    names, mask = encoded.names, encoded.column_mask_BK
    decoder = network.decoder

    def select() -> Tensor:
        chosen = decoder.select(encoded.maps, names, text, mask, column, queries)
        query: Tensor = chosen[0]
        return query

    query, selection = _counted(None, select)
    boxes = torch.empty(1, queries, 4)

    def advance() -> object:
        return decoder.advance(0, query, boxes, memory, names, text, column, mask)

    _, layer = _counted(None, advance)
    return sum(selection.values()), sum(layer.values())


def _counted(network: Mobius | None, call: Callable[[], _T]) -> tuple[_T, dict[str, int]]:
    """What a call returns, and its multiply-accumulates by part of the network (None: one part)."""
    counter = Counter()
    parts = counter.following(network) if network is not None else counter.inside("decoder")
    with parts, torch.no_grad(), counter:
        result = call()
    return result, counter.macs
