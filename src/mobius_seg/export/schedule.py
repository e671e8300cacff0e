"""Which queries run which layer in a graph of fixed shapes."""

from dataclasses import dataclass
from typing import Any

from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.operating_points import FULL, OperatingPoint, OperatingPoints, layer_queries
from mobius_seg.pruning import PruningPolicy
from mobius_seg.static_points import static_points


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A static pruning policy and where it comes from.

    Attributes:
        point: name of the operating point, ``full``, ``balanced`` or ``fast``.
        policy: full or static.
        origin: where the numbers come from, in one line.
    """

    point: str
    policy: PruningPolicy
    origin: str

    def queries(self, config: ModelConfig) -> tuple[int, ...]:
        """Queries that run each stage, the selection first, layers that run only."""
        found = layer_queries(config, self.point, OperatingPoint(self.policy))
        return tuple(int(count) for count in found[: self.policy.depth(config.decoder_layers) + 1])

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """The schedule as ``model.json`` states it."""
        queries = self.queries(config)
        return {"layers": len(queries) - 1, "queries": list(queries), "origin": self.origin}


def find_schedule(config: ModelConfig, points: OperatingPoints, name: str) -> Schedule:
    """The static schedule of an operating point.

    A point that was tuned for the model is taken if it is static. Adaptive policies look at each
    picture and have no fixed graph: the schedule that was tuned beside them stands in, or, without
    one, the package's keep fractions (static_points.py), as for models without points.

    Args:
        config: of the network.
        points: of the model.
        name: of the point.

    Raises:
        InputError: the model has no such point.
    """
    policy = points.policy(name)
    if policy.form == "full":
        return Schedule(point=name, policy=policy, origin="nothing is pruned")
    if policy.form == "static":
        origin = points.origin or "static: tuned for this model"
        return Schedule(point=name, policy=policy, origin=origin)
    if name in points.graphs:
        origin = "static: tuned for this model, beside its adaptive point"
        return Schedule(point=name, policy=points.graphs[name].policy, origin=origin)
    static = static_points(config)
    if name == FULL or name not in static.points:
        raise InputError(
            f"operating point {name!r} of {config.name} is adaptive, which no fixed graph can hold;"
            " run mobius-seg tune-pruning"
        )
    origin = f"{static.origin}; the model's own {name!r} is adaptive, which no fixed graph can hold"
    return Schedule(point=name, policy=static.policy(name), origin=origin)
