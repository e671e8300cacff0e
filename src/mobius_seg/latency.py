"""How long each part takes on this device, so that a budget in milliseconds can be solved."""

import json
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from mobius_seg.budget import Plan, monotone
from mobius_seg.errors import InputError
from mobius_seg.model import Mobius
from mobius_seg.types import TextPrompt

WARM_UP = 2
RUNS = 7
_SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class LatencyProfile:
    """Median times of one image, batch 1, for one input size and prompt on one device.

    Attributes:
        encoder_ms: backbone, text and pixel decoder.
        memory_ms: projecting the image tokens, once for all layers; 0 where each layer does so.
        queries: ascending numbers of queries that were timed.
        selection_ms: query selection at those numbers, mask vectors included.
        layer_ms: one layer with its heads, and its own projection if it has one, at those numbers.
        mask_ms: the mask product of all queries at those numbers.
    """

    encoder_ms: float
    memory_ms: float
    queries: tuple[int, ...]
    selection_ms: tuple[float, ...]
    layer_ms: tuple[float, ...]
    mask_ms: tuple[float, ...]

    def plan_ms(self, plan: Plan) -> float:
        """Time of a plan: queries of each stage, the selection first."""
        memory = self.memory_ms if len(plan) > 1 else 0.0
        layers = sum(self._at(self.layer_ms, count) for count in plan[1:])
        ends = self._at(self.selection_ms, plan[0]) + self._at(self.mask_ms, plan[-1])
        return self.encoder_ms + memory + layers + ends

    def to_json(self) -> str:
        """The profile as JSON text."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "latency profile") -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            InputError: it is no latency profile.
        """
        try:
            values = json.loads(text)
            fields: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in values.items()
            }
            found = cls(**fields)
            found.plan_ms((found.queries[-1],) * 2)
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f"{where}: not a latency profile ({error})") from None
        return found

    def _at(self, times: Sequence[float], count: int) -> float:
        """Piecewise linear between the timed numbers, flat outside."""
        right = bisect_left(self.queries, count)
        if right == 0 or right == len(self.queries):
            return times[min(right, len(times) - 1)]
        low, high = self.queries[right - 1], self.queries[right]
        share = (count - low) / (high - low)
        return times[right - 1] + share * (times[right] - times[right - 1])


@torch.inference_mode()
def measure_latency(
    network: Mobius, images_B3HW: Tensor, prompt: TextPrompt, runs: int = RUNS
) -> LatencyProfile:
    """Time the parts of a network: two calls to warm up, then the median of ``runs``.

    What surrounds the network (reading and resizing the picture, run lengths) is not in it.

    Args:
        network: in evaluation mode, on the device to be timed.
        images_B3HW: one padded image.
        prompt: what is asked for.
        runs: timed calls of each part.
    """
    device = images_B3HW.device
    decoder = network.decoder

    def timed(call: Callable[[], object]) -> float:
        return _median_ms(call, runs, device)

    encoder_ms = timed(lambda: network.encode(images_B3HW, prompt))
    encoded = network.encode(images_B3HW, prompt)
    memory_ms = timed(lambda: decoder.memory_for(0, encoded.maps, None))
    memory = decoder.memory_for(0, encoded.maps, None)
    columns = network.object_column
    selection_ms, layer_ms, mask_ms = [], [], []
    text, mask, names = encoded.text_BKC, encoded.column_mask_BK, encoded.names
    most = network.config.queries
    every, layer, _ = decoder.select(encoded.maps, names, text, mask, columns, most)
    most = every.shape[1]
    counts = sorted({max(1, round(most * share)) for share in _SHARES})
    for count in counts:
        query, boxes = every[:, :count].contiguous(), layer.boxes_BQ4[:, :count].contiguous()

        def select(count: int = count) -> Tensor:
            query: Tensor = decoder.select(encoded.maps, names, text, mask, columns, count)[0]
            return query

        def advance(query: Tensor = query, boxes: Tensor = boxes) -> object:
            return decoder.advance(0, query, boxes, memory, names, text, columns, mask)

        vectors: Tensor = decoder.heads.mask(decoder.heads.norm(query))

        def product(vectors: Tensor = vectors) -> Tensor:
            return torch.einsum("bqm,bmhw->bqhw", vectors, encoded.mask_features_BMhw)

        selection_ms.append(timed(select))
        layer_ms.append(timed(advance))
        mask_ms.append(timed(product))
    if not network.config.share_value_projection:
        layer_ms, memory_ms = [time + memory_ms for time in layer_ms], 0.0
    return LatencyProfile(
        encoder_ms=encoder_ms,
        memory_ms=memory_ms,
        queries=tuple(counts),
        selection_ms=tuple(monotone(selection_ms)),
        layer_ms=tuple(monotone(layer_ms)),
        mask_ms=tuple(monotone(mask_ms)),
    )


def _median_ms(call: Callable[[], object], runs: int, device: torch.device) -> float:
    """Median wall time of a call in milliseconds, the device's queue emptied around it."""
    times = []
    for run in range(WARM_UP + runs):
        _synchronize(device)
        start = time.perf_counter()
        call()
        _synchronize(device)
        if run >= WARM_UP:
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
