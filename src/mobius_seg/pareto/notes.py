"""What a page says about the conditions of its figures, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from mobius_seg.pareto.point import Point
from mobius_seg.pareto.request import TORCH
from mobius_seg.pareto.timing import SCENES


def facts(conditions: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The head of the page: a title and a text each.

    Args:
        conditions: of the run.
    """
    installed = {name: v for name, v in conditions["versions"].items() if v is not None}
    packages = ", ".join(f"{name} {version}" for name, version in installed.items())
    split = f" ({conditions['split']})" if conditions["split"] else ""
    return [
        ("Processor", f"{conditions['device']}, {conditions['cores']} cores"),
        ("Threads", str(conditions["threads"])),
        ("Scenes", f"{conditions['images']:,} of {conditions['annotations']}{split}"),
        ("Names asked", f"{conditions['names']:,}"),
        ("Instances", f"{conditions['instances']:,}"),
        ("Versions", f"Python {conditions['python']}, {packages}"),
        ("Date", conditions["date"]),
        ("Annotations, SHA-256", conditions["annotations_sha256"][:16]),
    ]


def notes(points: Sequence[Point], conditions: Mapping[str, Any]) -> list[str]:
    """How the figures were measured; what holds for none of the points is left out.

    Args:
        points: of the page.
        conditions: of the run.
    """
    runs, blocks = conditions["runs"], conditions["blocks"]
    found = [
        f"Latency: one picture at a time, CPU threads {conditions['threads']}, float32. Every point"
        f" lived in a process of its own; they took turns in {blocks} blocks of {runs} counted runs"
        " after one that was not counted. The figure is the median over the blocks of each block's"
        " median, and the 95th percentile of all runs. A run goes from the picture as a square"
        " tensor to scores, boxes and mask logits: neither reading and resizing before nor masks at"
        f" the picture's size after are in it. {conditions['names']:,} names were asked for, as in"
        " the accuracy.",
        "All points of this page took turns in one run, so they can be compared with each other;"
        " figures of another run cannot, even on the same machine.",
        "Accuracy: COCO average precision of masks as `mobius-seg eval` scores it (times 100), over"
        f" {conditions['images']:,} pictures, all names of the file asked for, at score threshold"
        " 0.",
        "GMAC: 10^9 multiply-accumulates that are executed for a square picture of this size, text"
        " side included.",
    ]
    origins: dict[str, list[str]] = {}
    for point in points:
        if point.operating_point not in origins.setdefault(point.origin, []):
            origins[point.origin].append(point.operating_point)
    found += [f"{', '.join(names)}: {origin}." for origin, names in origins.items()]
    graphs = [point for point in points if point.runtime != TORCH]
    if any(point.adaptive for point in points):
        found.append(
            "Adaptive points look at each picture: their GMAC is the mean over the pictures, and"
            f" they were timed on up to {SCENES} of them in turn, at score threshold 0; a higher"
            " threshold costs less."
        )
        if graphs:
            found.append(
                "A graph cannot look at each picture: its point of the same name holds the fixed"
                " schedule that stands for it, with an accuracy and a cost of its own."
            )
    if graphs:
        kind = "fixed in the graph" if conditions["vocabulary"] == "fixed" else "given in each call"
        found.append(
            "The accuracy of a graph is that of the network with the same schedule; `mobius-seg"
            f" export` compares the two in parity.json. Names were {kind}."
        )
    return found
