"""What stands in a room: a star, what belongs to it, and small things on what carries them."""

from functools import partial

import numpy as np

from mobius_seg.data.room_layout import Layout, Tint
from mobius_seg.data.room_things import Stock, Thing

MOST_THINGS = 18
NEARBY = (0.15, 0.5)
"""Metres around the star of a close view that others are put in, by the star's size."""
TINTED = 0.35
"""Share of things whose plain surfaces get another colour than the catalogue's."""


def furnish(
    rng: np.random.Generator, stock: Stock, layout: Layout, star: Thing, close: bool
) -> int:
    """Fill a room around its star.

    Args:
        rng: source of every choice.
        stock: the things to draw from.
        layout: the empty room; filled here.
        star: what the scene is made around.
        close: whether it will be seen from near by: then less stands elsewhere.

    Returns:
        Number of the star's placement; of the largest thing where the star found no place.
    """
    category = star.category
    carriers: list[int] = []
    if star.role == "small":  # what it stands on comes first
        focus, carriers = _with_carrier(rng, stock, layout, star, close)
    else:
        focus = place(rng, layout, star)
        if focus is not None and star.carries:
            carriers.append(focus)
    tables = 0 if close else 2  # there is always something that others can stand on
    for turn in range(int(rng.integers(1, 4)) if close else int(rng.integers(5, 10))):
        fits = _is_table if turn < tables else partial(_has_role, "floor")
        thing = stock.draw(rng, fits, category)
        number = place(rng, layout, thing) if thing is not None else None
        if number is not None and layout.placements[number].thing.carries:
            carriers.append(number)
    _seats(rng, stock, layout, carriers)
    _fittings(rng, stock, layout, category, 0.5 if close else 1.0)
    _small_things(rng, stock, layout, carriers, category, focus if close else None)
    if focus is not None:
        return focus
    slender = sorted((t for t in stock.things if t.role == "floor"), key=lambda t: max(t.size[:2]))
    for thing in slender:
        if layout.placements or layout.freely(rng, thing, None) is not None:
            break
    else:
        raise AssertionError(f"{star.key}: there is nothing that stands on a floor")
    return int(np.argmax([np.prod(placement.thing.size) for placement in layout.placements]))


def place(rng: np.random.Generator, layout: Layout, thing: Thing) -> int | None:
    """Put one thing where its kind belongs; its number, or None where there is no place."""
    tint = tint_of(rng, thing)
    if len(layout.placements) >= MOST_THINGS:
        return None
    if thing.role == "ceiling":
        return layout.hang(rng, thing, tint)
    if thing.role == "wall" or (thing.backed and rng.random() < 0.92):
        return layout.against_wall(rng, thing, tint)
    return layout.freely(rng, thing, tint)


def tint_of(rng: np.random.Generator, thing: Thing) -> Tint | None:
    """Another colour for some of the things that come in many."""
    turn = (float(rng.random()), float(rng.uniform(0.5, 1.6)), float(rng.uniform(0.6, 1.5)))
    return turn if thing.recolour and rng.random() < TINTED else None


def _with_carrier(
    rng: np.random.Generator, stock: Stock, layout: Layout, star: Thing, close: bool
) -> tuple[int | None, list[int]]:
    """Put a small star on a piece of furniture; its number, and those that carry things."""
    for _ in range(12):
        carrier = stock.draw(rng, lambda t: t.carries and t.role == "floor", star.category, 0.5)
        if carrier is None or (close and (carrier.surface != "top" or carrier.weight < 1)):
            continue
        number = place(rng, layout, carrier)
        if number is None:
            continue
        focus = layout.put_on(rng, number, star, tint_of(rng, star))
        if focus is not None:
            return focus, [number]
        layout.placements.pop()
    return None, []


def _seats(rng: np.random.Generator, stock: Stock, layout: Layout, carriers: list[int]) -> None:
    """Chairs of one model around one of the tables."""
    for number in carriers:
        base = layout.placements[number]
        table = base.thing.name.endswith("table") and base.thing.size[2] > 0.6
        laid = any(placement.on == number for placement in layout.placements)
        if not table or laid or base.thing.backed or rng.random() < 0.3:
            continue
        chair = stock.draw(
            rng,
            lambda t: t.name.endswith("chair") and t.role == "floor" and max(t.size[:2]) < 0.66,
        )
        if chair is None:
            return
        tint = tint_of(rng, chair)
        for _ in range(int(rng.integers(1, 5))):
            if len(layout.placements) < MOST_THINGS - 4:
                layout.seat_at(rng, number, chair, tint)
        return


def _fittings(
    rng: np.random.Generator, stock: Stock, layout: Layout, category: str, share: float
) -> None:
    """What hangs on walls and from the ceiling, and at times a rug."""
    for role, often in (("wall", 0.6), ("wall", 0.3), ("ceiling", 0.35), ("rug", 0.2)):
        if rng.random() >= often * share:
            continue
        thing = stock.draw(rng, partial(_has_role, role), category)
        if thing is not None:
            place(rng, layout, thing)


def _is_table(thing: Thing) -> bool:
    """Whether it readily carries things on top."""
    return thing.role == "floor" and thing.weight >= 1 and thing.surface == "top"


def _has_role(role: str, thing: Thing) -> bool:
    return thing.role == role


def _small_things(
    rng: np.random.Generator,
    stock: Stock,
    layout: Layout,
    carriers: list[int],
    category: str,
    star: int | None,
) -> None:
    """Things on furniture, some of them several times; mostly near the ``star`` of a close view."""
    first = layout.placements[star].on if star is not None else None
    middle = layout.placements[star] if star is not None else None
    weights = np.array([layout.placements[number].thing.weight for number in carriers])
    last: Thing | None = None
    for _ in range(int(rng.integers(7, 16) if first is not None else rng.integers(6, 15))):
        if len(layout.placements) >= MOST_THINGS:
            return
        again = last is not None and rng.random() < 0.2
        thing = last if again else stock.draw(rng, lambda t: t.role == "small", category, 0.6)
        if thing is None:
            return
        last = thing
        tint = tint_of(rng, thing)
        if first is not None and rng.random() < 0.85:
            assert middle is not None
            within = min(max(2.5 * max(middle.thing.size), NEARBY[0]), NEARBY[1])
            near = middle.position[:2]
            if layout.put_on(rng, first, thing, tint, near=near, within=within) is None:
                layout.put_on(rng, first, thing, tint)
        elif thing.floor_too and rng.random() < 0.4:
            layout.freely(rng, thing, tint)
        elif carriers:
            chosen = int(rng.choice(len(carriers), p=weights / weights.sum()))
            layout.put_on(rng, carriers[chosen], thing, tint)
