"""Which of many points nothing beats: the Pareto front of cost and worth."""

from collections.abc import Sequence


def front(costs: Sequence[float], worths: Sequence[float]) -> list[bool]:
    """Whether each point lies on the front.

    A point dominates another one if it costs no more, is worth no less, and differs. Equal points
    do not dominate each other: all of them are on the front, or none.

    Args:
        costs: of each point, less is better; finite.
        worths: of each point, more is better; finite.
    """
    flags = [False] * len(costs)
    highest, at = float("-inf"), float("nan")
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -worths[i])):
        cost, worth = costs[index], worths[index]
        if worth > highest:
            highest, at = worth, cost
        flags[index] = worth == highest and cost == at
    return flags


def steps(costs: Sequence[float], worths: Sequence[float]) -> list[tuple[float, float]]:
    """Corners of the front, cheapest first, each once: the best worth that a cost can buy.

    Args:
        costs: of each point.
        worths: of each point.
    """
    flags = front(costs, worths)
    return sorted({(c, w) for c, w, on in zip(costs, worths, flags, strict=True) if on})
