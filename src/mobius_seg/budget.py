"""Budgets: ``2.5gmac``, ``3layers`` or ``80ms`` an image, solved into a policy.

All plans (how many queries enter each layer) that a budget may choose lie on one ladder: a rung
never has fewer layers or fewer queries at any layer than the one below. The dearest affordable rung
is taken, so more budget never runs less. The ladder first deepens (every layer with a tenth of the
queries), then widens (early layers more than late ones, where fewer queries still count), then
fills up the late layers. That order is a choice, not a measurement.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from typing import Literal, get_args

from mobius_seg.config import ModelConfig
from mobius_seg.cost.certify import executed_profile
from mobius_seg.cost.record import Workload
from mobius_seg.errors import InputError
from mobius_seg.pruning import PruningPolicy

Unit = Literal["gmac", "layers", "ms"]
_FORM = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z]+)")
_LONGEST = (
    40  # characters of a budget: no amount beyond what is counted, none below a message's line
)
_DECAY = 0.7  # of the queries from layer to layer while the ladder widens
_RUNGS = 8  # of filling up the late layers

Plan = tuple[int, ...]
"""Queries of each stage, the selection first; its length less one is the number of layers."""


@dataclass(frozen=True)
class Budget:
    """A limit for one image.

    Attributes:
        amount: above 0; whole for layers.
        unit: ``gmac``, ``layers`` or ``ms``.
    """

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, text: object) -> "Budget":
        """Read a budget such as ``2.5gmac``, ``3layers`` (or ``1layer``) or ``80ms``.

        Raises:
            InputError: the text is none.
        """
        short = text.strip().lower() if isinstance(text, str) else ""
        found = _FORM.fullmatch(short) if len(short) <= _LONGEST else None
        unit = {"layer": "layers"}.get(found[2], found[2]) if found else ""
        if found is None or unit not in get_args(Unit) or float(found[1]) <= 0:
            raise _bad(text)
        amount = float(found[1])
        if unit == "layers" and amount != int(amount):
            raise _bad(text)
        return cls(amount, unit)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """As :meth:`parse` reads it."""
        number = format(Decimal(repr(float(self.amount))).normalize(), "f")
        return f"{number}{self.unit}"


def _bad(text: object) -> InputError:
    return InputError(
        f"budget is {str(text)[:40]!r}; allowed: a number above 0 and gmac, layers or ms,"
        " such as 2.5gmac, 3layers, 80ms"
    )


def ladder(queries: int, layers: int) -> list[Plan]:
    """Every plan a budget may choose, from the cheapest to the whole decoder.

    Args:
        queries: most queries there can be, min(Q, tokens).
        layers: layers of the decoder.
    """
    low = max(min(queries, 8), round(queries / 10))
    plans = [(low,) * (depth + 1) for depth in range(layers + 1)]
    for first in range(low + 1, queries + 1):
        plans.append(_decayed(first, low, layers, _DECAY))
    for rung in range(1, _RUNGS + 1):
        plans.append(_decayed(queries, low, layers, _DECAY + (1 - _DECAY) * rung / _RUNGS))
    return list(dict.fromkeys(plans))


def _decayed(first: int, low: int, layers: int, decay: float) -> Plan:
    """``first`` queries in the selection and layer 1, then fewer by ``decay``, never below low."""
    return (first, *(max(low, round(first * decay**layer)) for layer in range(layers)))


def plan_gmac(config: ModelConfig, work: Workload, plan: Plan) -> float:
    """Cost of a plan in GMAC, a mask for every query that is left included."""
    return executed_profile(config, work, plan).gmac


def solve(
    budget: Budget,
    config: ModelConfig,
    cost: Callable[[Plan], float] | None,
    tokens: int,
    base: PruningPolicy | None = None,
) -> PruningPolicy:
    """The policy that spends a budget best, of the ladder's.

    Args:
        budget: in layers, or in the unit of ``cost``.
        config: of the network.
        cost: of a plan, never falling along the ladder; not asked for a budget in layers.
        tokens: how many tokens the image has.
        base: an adaptive policy that may prune further; its own limits hold too.

    Raises:
        InputError: not even the query selection fits; the message states the least possible.
    """
    base = base or PruningPolicy()
    if budget.unit == "layers":
        return _limited(base, None, min(int(budget.amount), config.decoder_layers))
    assert cost is not None
    plans = ladder(min(config.queries, tokens), config.decoder_layers)
    if cost(plans[0]) > budget.amount:
        raise InputError(
            f"budget is {budget}; the least possible for this image is"
            f" {_rounded_up(cost(plans[0]))}{budget.unit}: backbone, pixel decoder and query"
            " selection, without a decoder layer"
        )
    low, high = 0, len(plans)
    while high - low > 1:  # the dearest rung that fits
        middle = (low + high) // 2
        low, high = (middle, high) if cost(plans[middle]) <= budget.amount else (low, middle)
    return _limited(base, plans[low], len(plans[low]) - 1)


def _limited(base: PruningPolicy, plan: Plan | None, layers: int) -> PruningPolicy:
    """A policy with the limits of a plan on top of its own."""
    layers = base.depth(layers)
    if plan is None:
        return replace(base, layers=layers)
    wanted = plan[1:] or plan  # layer 1 takes as many as the selection
    keep = tuple(base.cap(layer, count) for layer, count in enumerate(wanted, start=1))
    return replace(base, keep=keep, layers=layers)


def _rounded_up(value: float) -> str:
    """At least three digits, never below the value, as :meth:`Budget.parse` reads it."""
    decimals = max(0, 2 - math.floor(math.log10(value)))
    step = Decimal(1).scaleb(-decimals)
    up = Decimal(repr(float(value))).quantize(step, rounding=ROUND_CEILING)
    return format(up.normalize(), "f")


def monotone(values: Sequence[float]) -> list[float]:
    """Running maximum: measured times that should not fall do not."""
    out: list[float] = []
    for value in values:
        out.append(max(value, out[-1]) if out else value)
    return out
