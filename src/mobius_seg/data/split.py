"""Splitting names into base (trained on) and novel (never seen), near-synonyms on one side.

Two names are near when their text vectors have a cosine of at least ``NEAR`` or when they share a
head noun ("desk lamp", "ceiling lamp"). Groups of near names, closed over chains, stay together.
Novel names are drawn from small groups, so that nothing close to them was trained on; the names of
COCO's 80 categories stay base, since the shipped weights should know them.

The result is stored once in ``split.json`` and is the truth from then on.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobius_seg.data.names import head_noun

# Chosen on the names of this release: at 0.70 chains begin to join unrelated food and furniture.
NEAR = 0.72
LARGEST_NOVEL_GROUP = 3

COCO_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, "
    "fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, "
    "bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, "
    "sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, "
    "bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, "
    "carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, "
    "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, "
    "refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
)


def coco_names() -> list[str]:
    """The 80 category names of COCO, in its order."""
    return COCO_NAMES.split(", ")


def read_split() -> dict[str, str]:
    """The stored split: name to "base" or "novel"."""
    text = resources.files("mobius_seg.data").joinpath("split.json").read_text("utf-8")
    stored = json.loads(text)
    return {name: side for side in ("base", "novel") for name in stored[side]}


def group_names(
    names: Sequence[str], embeddings_ND: NDArray[np.floating[Any]], near: float = NEAR
) -> list[list[str]]:
    """Join near names into groups, closed over chains (union-find).

    Args:
        names: N distinct names.
        embeddings_ND: their L2-normalised text vectors.
        near: cosine from which two names are near.

    Returns:
        Groups in the order of their first name; every name is in one.
    """
    parent = list(range(len(names)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    vectors = embeddings_ND.astype(np.float32)
    for first, second in np.argwhere(np.triu(vectors @ vectors.T, 1) >= near):
        parent[root(int(second))] = root(int(first))
    by_noun: dict[str, int] = {}
    for index, name in enumerate(names):
        first_with_noun = by_noun.setdefault(head_noun(name), index)
        parent[root(index)] = root(first_with_noun)
    groups: dict[int, list[str]] = {}
    for index, name in enumerate(names):
        groups.setdefault(root(index), []).append(name)
    return list(groups.values())


def choose_novel(
    groups: Sequence[Sequence[str]],
    kind_of: Mapping[str, str],
    *,
    count: int,
    seed: int = 0,
    never: Sequence[str] = (),
) -> list[str]:
    """Draw small groups until ``count`` names are novel, every kind in its share of all names.

    Args:
        groups: groups of near names.
        kind_of: kind of every name ("drawn", "rendered", "both"); shares are kept within one group.
        count: how many novel names at least.
        seed: fixes the draw.
        never: names whose groups stay base.

    Returns:
        The novel names, sorted.
    """
    total = sum(len(group) for group in groups)
    kinds = [kind_of[name] for group in groups for name in group]
    left = {kind: count * kinds.count(kind) / total for kind in sorted(set(kinds))}
    kept = set(never)
    small = [g for g in groups if len(g) <= LARGEST_NOVEL_GROUP and not kept & set(g)]
    order = np.random.default_rng(seed).permutation(len(small))
    novel: list[str] = []
    for index in order:
        group = small[int(index)]
        if len(novel) < count and left[kind_of[group[0]]] > 0:
            novel += group
            for name in group:
                left[kind_of[name]] -= 1
    return sorted(novel)
