"""Light of rooms and of places outdoors: windows, lamps, sun and sky.

Only ratios matter here, since every picture is developed to a brightness of its own. Units are
those of Blender: watts for areas, watts a square metre for the sun.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mobius_seg.data.room_layout import Layout

Colour = tuple[float, float, float]
Point = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Lamp:
    """A light.

    Attributes:
        kind: a shining square, or the sun.
        position: of its middle, metres; of no meaning for the sun.
        target: what it shines at; the sun shines along position to target.
        size: side of the square in metres; angle of the sun in radians, which softens shadows.
        strength: see the module.
        colour: linear RGB.
    """

    kind: Literal["area", "sun"]
    position: Point
    target: Point
    size: float
    strength: float
    colour: Colour


@dataclass(frozen=True, kw_only=True)
class Sky:
    """Light from all around.

    Attributes:
        strength: radiance.
        zenith: colour above.
        horizon: colour at the horizon and below.
        clouds: share of white, 0 to 1.
        place: where in the pattern of the clouds this sky is.
    """

    strength: float
    zenith: Colour
    horizon: Colour
    clouds: float = 0.0
    place: float = 0.0


def warmth(rng: np.random.Generator, low: float = -1.0, high: float = 1.0) -> Colour:
    """A light colour from cool (-1) to warm (1)."""
    value = float(rng.uniform(low, high))
    return 1 + 0.15 * value, 1.0, 1 - 0.28 * value


def room_light(
    rng: np.random.Generator, layout: Layout, front: float, closed: bool
) -> tuple[tuple[Lamp, ...], Sky]:
    """Light of a room: windows at the sides, a lamp at the ceiling, what comes in at the front.

    Args:
        rng: source of every choice.
        layout: of the room.
        front: y of its front wall or open end.
        closed: whether there is a front wall.
    """
    lamps = []
    middle = (0.0, layout.depth / 2, 0.6)
    for _ in range(int(rng.integers(1, 3))):
        side = -1 if rng.random() < 0.5 else 1
        x = side * (layout.width / 2 - 0.06)
        y = float(rng.uniform(front, layout.depth * 0.8))
        lamps.append(
            Lamp(
                kind="area",
                position=(x, y, float(rng.uniform(1.3, layout.height - 0.6))),
                target=middle,
                size=float(rng.uniform(0.6, 1.5)),
                strength=float(rng.uniform(25, 140)),
                colour=warmth(rng, -1.0, 0.4),
            )
        )
    if closed or rng.random() < 0.45:
        x, y = float(rng.uniform(-0.3, 0.3)) * layout.width, float(rng.uniform(0, layout.depth))
        lamps.append(
            Lamp(
                kind="area",
                position=(x, y, layout.height - 0.04),
                target=(x, y + 1e-3, 0.0),
                size=float(rng.uniform(0.15, 1.2)),
                strength=float(rng.uniform(15, 90)),
                colour=warmth(rng, 0.0, 1.0),
            )
        )
    fill = Lamp(
        kind="area",
        position=(0.0, front + 0.08, layout.height * 0.75),
        target=(0.0, layout.depth, 0.8),
        size=min(layout.width, 2.5) * 0.8,
        strength=float(rng.uniform(5, 60)),
        colour=warmth(rng, -0.4, 0.4),
    )
    lamps.append(fill)
    if not closed and rng.random() < 0.4:  # low enough to come in under the ceiling
        lamps.append(_sun(rng, rise=(0.3, 0.65), turn=(-0.9, 0.9)))
    sky = Sky(
        strength=float(rng.uniform(0.2, 1.2)), zenith=(0.55, 0.7, 1.0), horizon=(0.9, 0.92, 1.0)
    )
    return tuple(lamps), sky


def outdoor_light(rng: np.random.Generator) -> tuple[tuple[Lamp, ...], Sky]:
    """Light outdoors: a sky, grey, blue or at dusk, and mostly the sun."""
    kind = float(rng.random())
    if kind < 0.35:
        grey = float(rng.uniform(0.75, 1.0))
        sky = Sky(strength=1.0, zenith=(grey, grey, 1.0), horizon=(0.95, 0.96, 1.0))
    elif kind < 0.85:
        sky = Sky(
            strength=float(rng.uniform(0.5, 1.0)),
            zenith=(0.16, 0.36, 0.85),
            horizon=(0.75, 0.85, 1.0),
            clouds=float(rng.uniform(0, 1)),
            place=float(rng.uniform(0, 100)),
        )
    else:
        sky = Sky(strength=0.6, zenith=(0.25, 0.3, 0.6), horizon=(1.0, 0.7, 0.45))
    if rng.random() < (0.25 if kind < 0.35 else 0.95):
        return (_sun(rng, rise=(0.3, 1.2), turn=(-2.4, 2.4)),), sky
    return (), sky


def _sun(rng: np.random.Generator, rise: tuple[float, float], turn: tuple[float, float]) -> Lamp:
    """A sun in front, at a height and a turn to the side, radians."""
    up, side = float(rng.uniform(*rise)), float(rng.uniform(*turn))
    position = (
        10 * math.cos(up) * math.sin(side), -10 * math.cos(up) * math.cos(side), 10 * math.sin(up)
    )  # fmt: skip
    return Lamp(
        kind="sun",
        position=position,
        target=(0.0, 0.0, 0.0),
        size=float(rng.uniform(0.01, 0.12)),
        strength=float(rng.uniform(1.5, 5)),
        colour=warmth(rng, -0.1, 0.8),
    )
