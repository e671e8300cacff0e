"""Referring expressions with exactly one right answer, made from the geometry of a scene.

An expression is kept only when one object fits it with a clear margin and no other object comes
near: the leftmost cup is clearly further left than every other cup, the red cup is the only one
whose colour could be called red. Names that mean nearly the same, or where one contains the other
("glass", "wine glass"), count as one kind. Legend: M objects.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MIN_SHARE = 0.4
"""Least visible share of an object that is referred to."""
MIN_AREA = 0.0015
"""Least visible area of an object that is referred to, over the image's area."""
SIMILAR = 0.6
"""Cosine of text vectors above which two names are taken for the same kind. At 0.6 lie pairs such
as "bird" and "chick", at 0.8 "desk lamp" and "table lamp" (MiniLM, names of the pack)."""
MAX_EXPRESSIONS = 4
MAX_ANCHORS = 3
"""Objects that others are related to, drawn for every scene; more would only cost time."""

ORDINALS = ("first", "second", "third", "fourth", "fifth")
_NEAR_COLOURS = (
    {"red", "orange", "pink", "brown", "maroon", "purple"},
    {"orange", "yellow", "brown", "beige", "gold", "golden", "tan", "cream"},
    {"grey", "gray", "silver", "white", "black", "beige", "cream"},
    {"blue", "purple", "violet", "turquoise", "cyan", "teal", "navy"},
    {"green", "turquoise", "teal", "cyan", "olive", "yellow"},
)


@dataclass(frozen=True)
class Expression:
    """A phrase and the object it means.

    Attributes:
        instance: index of the object in its scene.
        text: the phrase.
        kind: "name", "place", "size", "colour", "relation" or "ordinal".
    """

    instance: int
    text: str
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class SceneFacts:
    """What expressions are made from.

    Attributes:
        names: name of each object.
        confusable: for each object, the names that could also be meant by its name (with itself).
        colours: colour word of each object, None where it has no single colour.
        boxes_xyxy: boxes of the visible parts, [M, 4] pixels.
        areas: visible pixels, [M].
        visible_shares: visible over full area, [M].
        covers: pixels of the column's object taken by the row's, [M, M].
        size: (height, width) in pixels.
    """

    names: tuple[str, ...]
    confusable: tuple[frozenset[str], ...]
    colours: tuple[str | None, ...]
    boxes_xyxy: NDArray[np.float32]
    areas: NDArray[np.int64]
    visible_shares: NDArray[np.float64]
    covers: NDArray[np.int64]
    size: tuple[int, int]

    @cached_property
    def centres(self) -> NDArray[np.float64]:
        """Box centres x, y over width and height, [M, 2]."""
        boxes = self.boxes_xyxy.astype(np.float64)
        height, width = self.size
        return np.stack(
            [(boxes[:, 0] + boxes[:, 2]) / 2 / width, (boxes[:, 1] + boxes[:, 3]) / 2 / height], 1
        )


def find_confusable(
    names: Sequence[str], embeddings_ND: NDArray[np.floating], ids: NDArray[np.int64]
) -> dict[int, frozenset[int]]:
    """Which names could be meant by which.

    Args:
        names: all names.
        embeddings_ND: their L2-normalised text vectors.
        ids: the names that occur, rows of ``names``.

    Returns:
        For each of ``ids`` the set of ``ids`` (with itself) that its name could also mean: text
        vectors closer than ``SIMILAR``, or all words of one among the words of the other.
    """
    vectors = np.asarray(embeddings_ND, np.float32)[ids]
    confusable: dict[int, set[int]] = {int(i): {int(i)} for i in ids}
    for row, column in np.argwhere(vectors @ vectors.T > SIMILAR):
        confusable[int(ids[row])].add(int(ids[column]))
    words = {int(i): frozenset(names[i].lower().replace("-", " ").split()) for i in ids}
    with_word: dict[str, set[int]] = {}
    for i, own in words.items():
        for word in own:
            with_word.setdefault(word, set()).add(i)
    for i, own in words.items():
        for j in set.intersection(*(with_word[word] for word in own)):
            confusable[i].add(j)
            confusable[j].add(i)
    return {i: frozenset(others) for i, others in confusable.items()}


def describe(rng: np.random.Generator, facts: SceneFacts) -> list[Expression]:
    """Expressions for a scene, at most ``MAX_EXPRESSIONS``, of different kinds.

    Args:
        rng: chooses among the possible expressions and their wordings.
        facts: the scene.

    Returns:
        Expressions, each with exactly one right answer; empty when nothing is clear enough.
    """
    found: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    groups = list(_groups(facts))
    clear = _clear_enough(facts)
    alone = [g for g in groups if g.named and len(g.members) == 1 and clear[g.members[0]]]
    anchors = [alone[i] for i in rng.permutation(len(alone))[:MAX_ANCHORS]]
    for group in groups:
        for maker in (_by_name, _by_place, _by_size, _by_colour, _by_order):
            for instance, kind, wordings in maker(facts, group):
                found.setdefault(kind, []).append((instance, wordings))
        for anchor in anchors:
            for instance, kind, wordings in _by_relation(facts, group, anchor):
                found.setdefault(kind, []).append((instance, wordings))
    chosen: list[Expression] = []
    for kind in rng.permutation(sorted(found)):
        options = [option for option in found[str(kind)] if clear[option[0]]]
        if options and len(chosen) < MAX_EXPRESSIONS:
            instance, wordings = options[int(rng.integers(len(options)))]
            text = wordings[int(rng.integers(len(wordings)))]
            chosen.append(Expression(instance, text, str(kind)))
    return chosen


@dataclass(frozen=True)
class _Group:
    """Objects that one noun means; ``named`` is False for the noun "object", which means all."""

    members: tuple[int, ...]
    noun: str
    named: bool


_Found = Iterator[tuple[int, str, tuple[str, ...]]]


def _groups(facts: SceneFacts) -> Iterator[_Group]:
    """One group per name that cannot be mistaken for another in this scene, and one of all."""
    for name in sorted(set(facts.names)):
        first = facts.names.index(name)
        could_be = [i for i, other in enumerate(facts.names) if other in facts.confusable[first]]
        if all(facts.names[i] == name for i in could_be):
            yield _Group(tuple(could_be), name, named=True)
    if len(facts.names) > 1:
        yield _Group(tuple(range(len(facts.names))), "object", named=False)


def _clear_enough(facts: SceneFacts) -> NDArray[np.bool_]:
    """Objects that show enough of themselves to be referred to."""
    least = MIN_AREA * facts.size[0] * facts.size[1]
    return np.asarray((facts.visible_shares >= MIN_SHARE) & (facts.areas >= least))


def _by_name(facts: SceneFacts, group: _Group) -> _Found:
    if group.named and len(group.members) == 1:
        noun = group.noun
        yield group.members[0], "name", (f"the {noun}", noun, f"the {noun} in the picture")


_SIDES: tuple[tuple[int, int, tuple[str, ...]], ...] = (  # axis, sign, wordings
    (0, 1, ("the leftmost {}", "the {} on the left", "the {} furthest to the left")),
    (0, -1, ("the rightmost {}", "the {} on the right", "the {} furthest to the right")),
    (1, 1, ("the topmost {}", "the {} at the top", "the highest {}")),
    (1, -1, ("the {} at the bottom", "the lowest {}", "the bottommost {}")),
)
_CORNERS = (
    (0, 0, "top left"),
    (1, 0, "top right"),
    (0, 1, "bottom left"),
    (1, 1, "bottom right"),
)


def _by_place(facts: SceneFacts, group: _Group) -> _Found:
    members = np.array(group.members)
    centres = facts.centres[members]
    for axis, sign, wordings in _SIDES:
        along = centres[:, axis] if sign > 0 else 1 - centres[:, axis]
        best, ahead = _first(along)
        if ahead >= 0.08 and along[best] < (0.35 if len(members) == 1 else 0.5):
            yield _say(members[best], "place", wordings, group.noun)
    middle = np.hypot(*(centres - 0.5).T)
    best, ahead = _first(middle)
    if middle[best] < 0.15 and ahead >= 0.15:
        central = ("the {} in the middle", "the {} in the centre")
        yield _say(members[best], "place", central, group.noun)
    for x, y, corner in _CORNERS:
        distance = np.hypot(*(centres - (x, y)).T)
        best, ahead = _first(distance)
        if distance[best] < 0.35 and ahead >= 0.15:
            cornered = (f"the {{}} in the {corner} corner", f"the {corner} {{}}")
            yield _say(members[best], "place", cornered, group.noun)


def _by_size(facts: SceneFacts, group: _Group) -> _Found:
    """Largest by what shows against all of the others; smallest by its all against what shows."""
    if len(group.members) < 2:
        return
    members = np.array(group.members)
    shown = facts.areas[members].astype(np.float64)
    whole = shown / np.maximum(facts.visible_shares[members], 1e-6)
    boxes = facts.boxes_xyxy[members]
    side = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    for best in range(len(members)):
        others = np.arange(len(members)) != best
        if shown[best] >= 1.4 * whole[others].max() and side[best] >= 1.2 * side[others].max():
            wordings = ("the largest {}", "the biggest {}")
            yield _say(members[best], "size", wordings, group.noun)
        if 1.4 * whole[best] <= shown[others].min() and 1.2 * side[best] <= side[others].min():
            yield _say(members[best], "size", ("the smallest {}", "the tiniest {}"), group.noun)


def _by_colour(facts: SceneFacts, group: _Group) -> _Found:
    for best in group.members:
        colour = facts.colours[best]
        others = [facts.colours[i] for i in group.members if i != best]
        if colour is None or (not others and not group.named):
            continue
        if all(other is not None and not near_colours(colour, other) for other in others):
            wordings = (f"the {colour} {{}}", f"the {{}} that is {colour}")
            yield _say(best, "colour", wordings, group.noun)


def near_colours(first: str, second: str) -> bool:
    """Whether two colour words could be used for the same surface."""
    return first == second or any({first, second} <= family for family in _NEAR_COLOURS)


def _by_order(facts: SceneFacts, group: _Group) -> _Found:
    members = np.array(group.members)
    if not 3 <= len(members) <= len(ORDINALS):
        return
    for axis, starts in ((0, ("left", "right")), (1, ("top", "bottom"))):
        along = facts.centres[members, axis]
        order = np.argsort(along, kind="stable")
        if np.diff(along[order]).min() < 0.06:
            continue
        for start, ranked in zip(starts, (order, order[::-1]), strict=True):
            for word, best in zip(ORDINALS[:-1], ranked[:-1], strict=False):
                wordings = (f"the {word} {{}} from the {start}",)
                yield _say(members[best], "ordinal", wordings, group.noun)


_DIRECTIONS = (
    (0, -1, ("the {} left of the {}", "the {} to the left of the {}")),
    (0, 1, ("the {} right of the {}", "the {} to the right of the {}")),
    (1, -1, ("the {} above the {}",)),
    (1, 1, ("the {} below the {}", "the {} under the {}")),
)


def _by_relation(facts: SceneFacts, group: _Group, other: _Group) -> _Found:
    """Relations of a group's members to an anchor, the only member of another group."""
    anchor = other.members[0]
    members = np.array([i for i in group.members if i != anchor])
    if len(members) == 0:
        return
    offset = facts.centres[members] - facts.centres[anchor]
    for axis, sign, wordings in _DIRECTIONS:
        best = _only_one_there(facts, members, anchor, offset[:, axis] * sign, axis)
        if best is not None:
            yield _relate(best, wordings, group.noun, other.noun)
    yield from _nearest(facts, members, anchor, group.noun, other.noun)
    yield from _overlapping(facts, members, anchor, group.noun, other.noun)


def _only_one_there(
    facts: SceneFacts,
    members: NDArray[np.int64],
    anchor: int,
    ahead: NDArray[np.float64],
    axis: int,
) -> int | None:
    """The only member on one side of the anchor: clearly there, and no other even slightly."""
    best = int(ahead.argmax())
    if ahead[best] < 0.1 or np.count_nonzero(ahead > -0.03) > 1:
        return None
    boxes = facts.boxes_xyxy[[members[best], anchor]]
    half = (boxes[:, axis + 2] - boxes[:, axis]).sum() / 2 / facts.size[1 - axis]
    aside = abs(facts.centres[members[best]] - facts.centres[anchor])[1 - axis]
    if ahead[best] < 0.6 * half or aside > 1.5 * ahead[best]:
        return None
    return int(members[best])


def _nearest(
    facts: SceneFacts, members: NDArray[np.int64], anchor: int, noun: str, other: str
) -> _Found:
    if len(members) < 2:
        return
    low = np.maximum(facts.boxes_xyxy[members, :2], facts.boxes_xyxy[anchor, :2])
    high = np.minimum(facts.boxes_xyxy[members, 2:], facts.boxes_xyxy[anchor, 2:])
    gap = np.hypot(*np.maximum(low - high, 0).T) / max(facts.size)
    between = np.hypot(*(facts.centres[members] - facts.centres[anchor]).T)
    best, ahead = _first(between)
    rest = np.delete(gap, best)
    if ahead >= max(0.1, 0.5 * between[best]) and rest.min() >= gap[best] + 0.05:
        wordings = ("the {} closest to the {}", "the {} nearest to the {}")
        yield _relate(int(members[best]), wordings, noun, other)


def _overlapping(
    facts: SceneFacts, members: NDArray[np.int64], anchor: int, noun: str, other: str
) -> _Found:
    """Behind and in front of: who hides whom, in pixels."""
    whole = facts.areas / np.maximum(facts.visible_shares, 1e-6)
    for wordings, hidden, enough in (
        (("the {} behind the {}",), facts.covers[anchor, members], 0.08 * whole[members]),
        (
            ("the {} in front of the {}",),
            facts.covers[members, anchor],
            np.minimum(0.25 * whole[members], 0.08 * whole[anchor]),
        ),
    ):
        touching = np.flatnonzero(hidden > 0)
        if len(touching) == 1 and hidden[touching[0]] >= enough[touching[0]]:
            yield _relate(int(members[touching[0]]), wordings, noun, other)


def _first(values: NDArray[np.float64]) -> tuple[int, float]:
    """Index of the smallest value and how far it is ahead of the second (infinite when alone)."""
    best = int(values.argmin())
    if len(values) == 1:
        return best, float("inf")
    return best, float(np.partition(values, 1)[1] - values[best])


def _say(
    instance: int | np.integer, kind: str, wordings: tuple[str, ...], noun: str
) -> tuple[int, str, tuple[str, ...]]:
    return int(instance), kind, tuple(wording.format(noun) for wording in wordings)


def _relate(
    instance: int, wordings: tuple[str, ...], noun: str, other: str
) -> tuple[int, str, tuple[str, ...]]:
    return instance, "relation", tuple(wording.format(noun, other) for wording in wordings)
