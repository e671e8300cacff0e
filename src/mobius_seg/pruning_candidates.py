"""Policies that a model might be tuned to, and what the record of a data set says of them.

The full decoder has run once (:mod:`mobius_seg.pruning_record`); here policies are simulated on
that record: what they would lose, and what they would cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mobius_seg.cost.certify import executed_profile
from mobius_seg.cost.parts import DECODER
from mobius_seg.cost.record import Workload
from mobius_seg.evaluate.ap import MAX_DETECTIONS
from mobius_seg.predictor import Predictor
from mobius_seg.pruning import PruningPolicy
from mobius_seg.pruning_record import (
    ImageRecord,
    Outcome,
    average_precision,
    change_at,
    simulate,
    true_positives,
)

THRESHOLDS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
_SHARES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.25, 0.35)
_CHANGES = (0.1, 0.25, 0.5, 0.75, 0.9)  # quantiles of the changes that are seen
_LEAST = 4
_DEPTHS = (1, 2, 3, 4, 6)  # layers that run at most
_CAP = 0.6  # share of the queries that enter layer 1 where floors come with a cap
_STARTS = (1.0, 0.8, 0.6, 0.4, 0.3, 0.2)  # that share in schedules
_ENDS = (1.0, 0.75, 0.5, 0.25)  # shares of those that enter the last layer


@dataclass(frozen=True)
class Candidate:
    """A policy and what the simulation expects of it.

    Attributes:
        policy: what is pruned.
        loss: points (hundredths) of the metric that it loses.
        decoder_gmac: mean cost of the decoder.
    """

    policy: PruningPolicy
    loss: float
    decoder_gmac: float


def learn_floors(records: Sequence[ImageRecord], share: float) -> tuple[tuple[float, ...], ...]:
    """Floors below which at most a share of the final true positives lie, by stage and threshold.

    Args:
        records: of the full decoder.
        share: eps in 0..1, of the true positives that end at or above a threshold.

    Returns:
        For each stage but the last one value for each of :data:`THRESHOLDS`, never falling.
    """
    positives = [(record, true_positives(record)) for record in records]
    final = np.concatenate([record.scores_SQ[-1].numpy()[tp] for record, tp in positives])
    floors = []
    for stage in range(records[0].scores_SQ.shape[0] - 1):
        now = np.concatenate([record.scores_SQ[stage].numpy()[tp] for record, tp in positives])
        values: list[float] = []
        for threshold in THRESHOLDS:
            reached = np.sort(now[final >= threshold])
            if len(reached):
                values.append(float(reached[min(int(share * len(reached)), len(reached) - 1)]))
            else:  # nothing seen that high: as careful as the highest that was
                values.append(values[-1] if values else 0.0)
        careful = np.minimum.accumulate(values[::-1])[::-1]
        # One step down in the scores' own precision: the query that a floor is taken from passes.
        below = np.nextafter(careful.astype(now.dtype), now.dtype.type(-np.inf))
        floors.append(tuple(float(value) for value in below))
    return tuple(floors)


def candidates(
    records: Sequence[ImageRecord], predictor: Predictor, metric: str = "ap"
) -> list[Candidate]:
    """Simulate every candidate policy, cheapest first.

    Floors for each share of lost true positives, alone, with at most so many queries from the first
    layer on, and with either way to end: the same last layer for all pictures, or each picture's
    own. The schedules without floors compete too: what is tuned is never worse than they are.

    Args:
        records: of the full decoder.
        predictor: gives the configuration that costs are counted for.
        metric: ``ap`` or ``recall``.
    """
    stages = records[0].scores_SQ.shape[0]
    changes, sures = [], []
    for record in records:
        for stage in range(1, stages - 1):
            kept = record.scores_SQ[stage].topk(min(20, record.scores_SQ.shape[1])).indices
            changes.append(change_at(record, stage, kept))
            score = record.scores_SQ[stage, kept].clamp(min=1e-6)
            sures.append(float((score * score).sum() / score.sum()))
    depths = [None, *(depth for depth in _DEPTHS if depth < stages - 1)]
    ends: list[dict[str, Any]] = [{"layers": layers} for layers in depths]
    if changes:
        for settle in np.quantile(changes, _CHANGES):
            for sure in (0.0, _round(sures)):
                ends.append({"settle": round(float(settle), 4), "sure": sure})
    queries = predictor.config.queries
    caps: list[tuple[int, ...]] = [(), (max(1, round(_CAP * queries)),)]
    policies = _schedules(queries, stages - 1)
    for share in _SHARES:
        floored = PruningPolicy(
            thresholds=THRESHOLDS, floors=learn_floors(records, share), least=_LEAST
        )
        policies += [replace(floored, keep=keep, **end) for keep in caps for end in ends]
    return simulated(policies, records, predictor, metric)


def static_candidates(
    records: Sequence[ImageRecord], predictor: Predictor, metric: str = "ap"
) -> list[Candidate]:
    """Simulate schedules that are the same for every picture, cheapest first.

    Every number of layers, with queries that fall geometrically from the first to the last.

    Args:
        records: of the full decoder.
        predictor: gives the configuration that costs are counted for.
        metric: ``ap`` or ``recall``.
    """
    config = predictor.config
    policies = _schedules(config.queries, config.decoder_layers)
    return simulated(policies, records, predictor, metric)


def _schedules(queries: int, depth: int) -> list[PruningPolicy]:
    """Schedules for a decoder of so many queries and layers, each once."""
    policies: dict[PruningPolicy, None] = {}
    for layers in range(1, depth + 1):
        for start in _STARTS:
            for end in _ENDS:
                shares = np.geomspace(start, start * end, layers)
                keep = tuple(max(1, round(float(share) * queries)) for share in shares)
                policies.setdefault(PruningPolicy.static(keep, layers))
    return [*policies]


def simulated(
    policies: Sequence[PruningPolicy],
    records: Sequence[ImageRecord],
    predictor: Predictor,
    metric: str,
) -> list[Candidate]:
    """Simulate policies: loss and cost of each, cheapest first.

    Args:
        policies: to simulate.
        records: of the full decoder.
        predictor: gives the configuration that costs are counted for.
        metric: ``ap`` or ``recall``.
    """
    before = _figures(records, [simulate(record, PruningPolicy()) for record in records], metric)
    found = []
    for policy in policies:
        outcomes = [simulate(record, policy) for record in records]
        after = _figures(records, outcomes, metric)
        loss = 100 * max(b - a for b, a in zip(before, after, strict=True))
        found.append(Candidate(policy, loss, mean_decoder_gmac(records, outcomes, predictor)))
    return sorted(found, key=lambda candidate: candidate.decoder_gmac)


def mean_decoder_gmac(
    records: Sequence[ImageRecord], outcomes: Sequence[Outcome], predictor: Predictor
) -> float:
    """Mean decoder cost of outcomes; a mask for each of the last queries, at most 100."""
    total = 0.0
    for record, outcome in zip(records, outcomes, strict=True):
        height, width, columns, tokens = record.shape
        work = Workload(height=height, width=width, names=columns, subwords=tokens)
        masks = min(outcome.queries[-1], MAX_DETECTIONS)
        executed = executed_profile(predictor.config, work, outcome.queries, masks)
        total += executed.part_gmac(DECODER)
    return total / len(records)


def _figures(
    records: Sequence[ImageRecord], outcomes: Sequence[Outcome], metric: str
) -> tuple[float, ...]:
    """What must not fall: AP with and without names, or recall."""
    precision, recall = average_precision(records, outcomes, named=False)
    if metric == "recall":
        return (recall,)
    return precision, average_precision(records, outcomes, named=True)[0]


def _round(values: Sequence[float]) -> float:
    """Their median to four digits."""
    return round(float(np.median(values)), 4)
