"""Where things stand in a room: boxes that touch what carries them and nothing else.

Lengths are metres, x to the right, y to the back, z up; a thing with yaw 0 faces the front (-y).
Tests are on axis-aligned boxes around turned things, which errs on the side of air between them.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mobius_seg.data.room_things import Thing

Array = NDArray[np.float64]
Tint = tuple[float, float, float]

GAP = 0.01
TRIES = 14
TUCK = 0.3  # of a chair's depth that may be under the table in front of it
_HIGHEST = {"top": 1.0, "seat": 0.35, "shelf": 0.2}
"""Metres: highest thing on each kind of surface."""
_USED = {"top": 0.94, "seat": 0.72, "shelf": 0.78}
"""Share of a carrier's width and depth that is its surface."""
WALLS = ("back", "left", "right")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A thing and where it is.

    Attributes:
        thing: the model.
        position: middle of its base.
        yaw: turn about the vertical, radians; 0 faces the front.
        scale: of its catalogue size.
        on: number of the placement that carries it, None for floor, wall and ceiling.
        tucked: number of the table that it is partly under.
        tint: change of its plain colours: turn of the hue (0..1), factors of saturation and value.
    """

    thing: Thing
    position: tuple[float, float, float]
    yaw: float = 0.0
    scale: float = 1.0
    on: int | None = None
    tucked: int | None = None
    tint: Tint | None = None

    def box(self) -> Array:
        """Lowest and highest corner, float64 [2, 3]."""
        half_x, half_y = footprint(self.thing, self.yaw, self.scale)
        x, y, z = self.position
        height = self.thing.size[2] * self.scale
        return np.array([[x - half_x, y - half_y, z], [x + half_x, y + half_y, z + height]])


def footprint(thing: Thing, yaw: float, scale: float = 1.0) -> tuple[float, float]:
    """Half the sides of the box around a turned thing, x and y."""
    half_width, half_depth = thing.size[0] / 2 * scale, thing.size[1] / 2 * scale
    cos, sin = abs(math.cos(yaw)), abs(math.sin(yaw))
    return half_width * cos + half_depth * sin, half_width * sin + half_depth * cos


def overlap(first_23: Array, second_23: Array, gap: float = 0.0) -> bool:
    """Whether two boxes come closer than ``gap`` in every direction."""
    return bool(((first_23[0] < second_23[1] + gap) & (second_23[0] < first_23[1] + gap)).all())


@dataclass
class Layout:
    """A room being furnished.

    Attributes:
        width: from wall to wall, x from -width / 2.
        depth: of the furnished part, y from 0 to the back wall.
        height: of the ceiling.
        walls: those that are there, of ``WALLS``.
        placements: what stands there so far.
    """

    width: float
    depth: float
    height: float
    walls: tuple[str, ...] = WALLS
    placements: list[Placement] = field(default_factory=list)

    def add(self, placement: Placement) -> int | None:
        """Keep a placement if it is inside the room and free of others; its number, or None."""
        box = placement.box()
        if placement.thing.role == "rug":
            box[1, 2] = box[0, 2] + 1e-3
        low, high = box
        slack = 1e-6
        if abs(low[0]) > self.width / 2 + slack or high[0] > self.width / 2 + slack:
            return None
        if low[1] < -slack or high[1] > self.depth + slack or high[2] > self.height + slack:
            return None
        for number, other in enumerate(self.placements):
            if number in (placement.on, placement.tucked):
                continue
            if "rug" in (placement.thing.role, other.thing.role) and (
                placement.thing.role != other.thing.role
            ):
                continue  # things stand on rugs
            same_carrier = placement.on is not None and placement.on == other.on
            if overlap(box, other.box(), 0.003 if same_carrier else 0.0):
                return None
        self.placements.append(placement)
        return len(self.placements) - 1

    def against_wall(self, rng: np.random.Generator, thing: Thing, tint: Tint | None) -> int | None:
        """Put a thing with its back to a wall, standing or hanging; its number, or None."""
        for _ in range(TRIES):
            wall = self.walls[int(rng.integers(len(self.walls)))]
            gap = GAP if thing.role == "wall" or rng.random() < 0.8 else float(rng.uniform(0, 0.1))
            if thing.category == "Doors and windows":
                gap = -thing.size[1] / 2 + 0.03  # a door is in the wall
            yaw = {"back": 0.0, "left": math.pi / 2, "right": -math.pi / 2}[wall]
            half_x, half_y = footprint(thing, yaw)
            x = float(rng.uniform(-1, 1)) * (self.width / 2 - half_x)
            y = self.depth * float(rng.uniform(0.1, 1))
            y = min(max(y, half_y), self.depth - half_y)
            if wall == "back":
                y = self.depth - half_y - gap
            else:
                side = self.width / 2 - half_x - gap
                x = side if wall == "right" else -side
            z = thing.elevation
            if thing.role == "wall" and z > 0.5:
                z += float(rng.uniform(-0.15, 0.15))
                z = min(z, self.height - thing.size[2] - 0.02)
            number = self._add_in_wall(
                Placement(thing=thing, position=(x, y, z), yaw=yaw, tint=tint), gap < 0
            )
            if number is not None:
                return number
        return None

    def _add_in_wall(self, placement: Placement, inside: bool) -> int | None:
        """Add what may reach into its wall."""
        if not inside:
            return self.add(placement)
        kept = self.width, self.depth
        self.width, self.depth = self.width + 0.6, self.depth + 0.6
        try:
            return self.add(placement)
        finally:
            self.width, self.depth = kept

    def freely(
        self, rng: np.random.Generator, thing: Thing, tint: Tint | None, yaw: float | None = None
    ) -> int | None:
        """Put a thing anywhere on the floor; its number, or None."""
        for _ in range(TRIES):
            turn = float(rng.normal(0, 0.7)) if yaw is None else yaw
            half_x, half_y = footprint(thing, turn)
            x = float(rng.uniform(-1, 1)) * max(self.width / 2 - half_x, 0)
            y = float(rng.uniform(half_y, max(self.depth - half_y, half_y)))
            number = self.add(Placement(thing=thing, position=(x, y, 0.0), yaw=turn, tint=tint))
            if number is not None:
                return number
        return None

    def hang(self, rng: np.random.Generator, thing: Thing, tint: Tint | None) -> int | None:
        """Hang a thing from the ceiling; its number, or None."""
        for _ in range(TRIES):
            x = float(rng.uniform(-0.6, 0.6)) * self.width / 2
            y = float(rng.uniform(0.25, 0.8)) * self.depth
            z = self.height - thing.size[2]
            place = Placement(
                thing=thing, position=(x, y, z), yaw=float(rng.uniform(-3, 3)), tint=tint
            )
            number = self.add(place)
            if number is not None:
                return number
        return None

    def seat_at(
        self, rng: np.random.Generator, table: int, chair: Thing, tint: Tint | None
    ) -> int | None:
        """Put a chair at a side of a table, facing it; its number, or None."""
        base = self.placements[table]
        for _ in range(TRIES):
            side = int(rng.integers(4))
            angle = base.yaw + side * math.pi / 2
            wide, deep = base.thing.size[side % 2], base.thing.size[(side + 1) % 2]
            tuck = TUCK * chair.size[1] * float(rng.uniform(-0.8, 0.9))
            away = deep / 2 + chair.size[1] / 2 - tuck
            along = float(rng.uniform(-0.5, 0.5)) * max(wide - chair.size[0], 0)
            # The side's outward direction is (sin, -cos); a chair there faces against it.
            x = base.position[0] + away * math.sin(angle) + along * math.cos(angle)
            y = base.position[1] - away * math.cos(angle) + along * math.sin(angle)
            yaw = angle + math.pi + float(rng.normal(0, 0.12))
            place = Placement(thing=chair, position=(x, y, 0.0), yaw=yaw, tucked=table, tint=tint)
            number = self.add(place)
            if number is not None:
                return number
        return None

    def put_on(
        self,
        rng: np.random.Generator,
        carrier: int,
        thing: Thing,
        tint: Tint | None = None,
        *,
        near: tuple[float, float] | None = None,
        within: float = 0.0,
    ) -> int | None:
        """Stand a small thing on another; its number, or None.

        Args:
            rng: source of every choice.
            carrier: number of what carries it.
            thing: what is put there.
            tint: change of its colours.
            near: keep near this x and y.
            within: so many metres of it.
        """
        base = self.placements[carrier]
        scale = float(rng.uniform(0.9, 1.12))
        reach = support_reach(base, thing, scale)
        if base.thing.top is None or base.tucked is not None or reach is None:
            return None
        for _ in range(TRIES):
            radius, angle = math.sqrt(float(rng.random())), float(rng.uniform(0, 2 * math.pi))
            across, along = radius * math.cos(angle) * reach[0], radius * math.sin(angle) * reach[1]
            cos, sin = math.cos(base.yaw), math.sin(base.yaw)
            if near is not None:
                away = within * math.sqrt(float(rng.random()))
                dx = near[0] + away * math.cos(angle) - base.position[0]
                dy = near[1] + away * math.sin(angle) - base.position[1]
                across, along = dx * cos + dy * sin, dy * cos - dx * sin
                if (across / reach[0]) ** 2 + (along / reach[1]) ** 2 > 1:
                    continue
            x = base.position[0] + across * cos - along * sin
            y = base.position[1] + across * sin + along * cos
            z = base.position[2] + base.thing.top * base.scale
            turn = 0.5 if rng.random() < 0.6 else 2.5
            yaw = base.yaw * float(base.thing.backed) + float(rng.normal(0, turn))
            if not _on_top(base, thing, scale, yaw, across, along):
                continue
            number = self.add(
                Placement(
                    thing=thing, position=(x, y, z), yaw=yaw, scale=scale, on=carrier, tint=tint
                )
            )
            if number is not None:
                return number
        return None


def support_reach(base: Placement, thing: Thing, scale: float) -> tuple[float, float] | None:
    """How far from a carrier's middle a thing's middle may be, across and along; None: no room.

    Round and oval tops are tops too: positions are kept in the ellipse of these half axes.
    """
    surface = base.thing.surface
    if thing.size[2] * scale > _HIGHEST[surface] or not base.thing.carries:
        return None
    half = min(thing.size[:2]) * scale / 2
    across, along = (side * base.scale / 2 * _USED[surface] - half for side in base.thing.size[:2])
    return None if min(across, along) <= 0 else (across, along)


def _on_top(
    base: Placement, thing: Thing, scale: float, yaw: float, across: float, along: float
) -> bool:
    """Whether a turned thing at (across, along) of its carrier's middle stays on the surface."""
    half_x, half_y = footprint(thing, yaw - base.yaw, scale)
    used = _USED[base.thing.surface] + 0.06 * (thing.size[2] < 0.05)
    width, depth = (side * base.scale / 2 * used for side in base.thing.size[:2])
    return abs(across) + half_x <= width and abs(along) + half_y <= depth
