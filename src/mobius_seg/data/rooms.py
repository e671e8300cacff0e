"""Planning of rooms: which things stand where, what the light is and from where it is seen.

Pure numpy, no renderer: a plan depends on the stock of things and on (seed, index, attempt) alone,
and :mod:`mobius_seg.data.room_render` draws it. A scene is made around one thing, its star, drawn
evenly over the names; the star says whether it is a room, a close view of a table top or a place
outdoors, and what else there is mostly comes from its category. Lengths are metres, x to the right,
y to the back, z up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobius_seg.data import room_camera
from mobius_seg.data.room_camera import Camera
from mobius_seg.data.room_furnish import furnish, tint_of
from mobius_seg.data.room_layout import WALLS, Layout, Placement, footprint
from mobius_seg.data.room_light import Lamp, Sky, outdoor_light, room_light
from mobius_seg.data.room_things import Stock, Thing
from mobius_seg.errors import InputError

PLANNER_VERSION = 1
"""Raised whenever equal arguments would give other plans than before."""

GROUND = 120.0  # metres, side of the ground outdoors
FURTHEST = 30.0  # metres from the camera to what stands outdoors

CLOSE = 0.65
"""Share of small stars that are seen from near by."""
DRAFTS, ENOUGH = 6, 7
"""Drafts of a plan, of which the first that shows enough things is taken, or the best."""
OUTDOOR_TEXTURES = ("grass", "stone", "rock", "brick", "tile-ext", "plancks")

Colour = tuple[float, float, float]
Kind = Literal["room", "close", "street"]


@dataclass(frozen=True, kw_only=True)
class Finish:
    """How a floor, a wall or the ceiling looks.

    Attributes:
        texture: number of a texture, None for plain paint.
        colour: linear RGB; multiplies the texture.
        tile: metres that one copy of the texture covers.
        roughness: 0 mirrors, 1 is chalk.
    """

    texture: int | None
    colour: Colour
    tile: float
    roughness: float


@dataclass(frozen=True, kw_only=True)
class RoomPlan:
    """Everything that a scene holds.

    Attributes:
        kind: a room, a close view in one, or outdoors.
        width: of the room, x from -width / 2; of the ground outdoors.
        depth: y of the back wall.
        front: y of the front wall or of the open end, negative.
        height: of the ceiling; 0 outdoors.
        walls: those that are there: "back", "left", "right", "front".
        floor: how the floor or ground looks.
        wall: how the walls look.
        ceiling: how the ceiling looks.
        placements: the things; what carries others comes before them.
        camera: the view.
        lamps: the lights.
        sky: light from all around.
        exposure: mean brightness that the picture is developed to, linear.
        contrast: strength of the tone curve, around 1.
        render_seed: of the renderer's noise.
    """

    kind: Kind
    width: float
    depth: float
    front: float
    height: float
    walls: tuple[str, ...]
    floor: Finish
    wall: Finish
    ceiling: Finish
    placements: tuple[Placement, ...]
    camera: Camera
    lamps: tuple[Lamp, ...]
    sky: Sky
    exposure: float
    contrast: float
    render_seed: int


def plan_scene(
    stock: Stock, textures: Sequence[str], seed: int, index: int, attempt: int = 0
) -> RoomPlan:
    """Plan one scene.

    Args:
        stock: the things to draw from.
        textures: file names of the textures for floors and walls.
        seed: of the set.
        index: of the scene in it.
        attempt: of the scene, where an earlier plan showed too little.

    Returns:
        The same plan for the same arguments.

    Raises:
        InputError: a negative number, or nothing to draw from.
    """
    for name, value in (("seed", seed), ("index", index), ("attempt", attempt)):
        if value < 0:
            raise InputError(f"{name} {value}: must be at least 0")
    if not stock.things:
        raise InputError("rooms: there is no model to furnish them with")
    first = np.random.default_rng([seed, index, attempt])
    star = stock.star(first)
    kind = _kind(first, star)
    best: tuple[int, RoomPlan] | None = None
    for draft in range(DRAFTS):
        rng = np.random.default_rng([seed, index, attempt, draft])
        if kind == "street":
            plan = _street(rng, stock, textures, star)
        else:
            plan = _room(rng, stock, textures, star, kind == "close")
        shown = room_camera.count_shown(plan.camera, _boxes(plan.placements))
        if best is None or shown > best[0]:
            best = shown, plan
        if shown >= ENOUGH:
            break
    assert best is not None
    return best[1]


def _kind(rng: np.random.Generator, star: Thing) -> Kind:
    """What kind of scene is made around a star."""
    chance = float(rng.random())
    if star.role == "ground" or (star.category == "Characters" and chance < 0.5):
        return "street"
    return "close" if star.role == "small" and chance < CLOSE else "room"


def _boxes(placements: Sequence[Placement]) -> NDArray[np.float64]:
    return np.stack([placement.box() for placement in placements])


def _room(
    rng: np.random.Generator, stock: Stock, textures: Sequence[str], star: Thing, close: bool
) -> RoomPlan:
    """A furnished room, seen whole or, where ``close``, at one of its surfaces."""
    sides = WALLS if rng.random() < 0.8 else ("back", WALLS[int(rng.integers(1, 3))])
    spare = max(star.size[:2])  # a large thing needs a larger room
    layout = Layout(
        width=max(float(rng.uniform(2.6, 4.6)), spare + 1.8),
        depth=max(float(rng.uniform(2.1, 3.8)), spare + 0.9),
        height=float(rng.uniform(2.5, 2.9)),
        walls=sides,
    )
    focus = furnish(rng, stock, layout, star, close)
    boxes = _boxes(layout.placements)
    front = -float(rng.uniform(0.4, 1.8))
    close = close and layout.placements[focus].on is not None
    views = (
        room_camera.close_views(rng, boxes, focus, width=layout.width, reach=front + 0.1)
        if close
        else room_camera.room_views(
            rng,
            boxes,
            focus,
            width=layout.width,
            reach=(front + 0.15, 0.35 * layout.depth),
            height=layout.height,
        )
    )
    walls = (*sides, "front") if rng.random() < 0.4 else sides
    lamps, sky = room_light(rng, layout, front, "front" in walls)
    white = float(rng.uniform(0.6, 0.85))
    return RoomPlan(
        kind="close" if close else "room",
        width=layout.width,
        depth=layout.depth,
        front=front,
        height=layout.height,
        walls=walls,
        floor=_finish(rng, textures, 0.8),
        wall=_finish(rng, textures, 0.3),
        ceiling=Finish(texture=None, colour=(white, white, 0.97 * white), tile=1.0, roughness=0.9),
        placements=tuple(layout.placements),
        camera=room_camera.choose(rng, views, boxes, focus),
        lamps=lamps,
        sky=sky,
        exposure=_exposure(rng),
        contrast=float(rng.uniform(0.95, 1.4)),
        render_seed=int(rng.integers(2**31)),
    )


def _street(
    rng: np.random.Generator, stock: Stock, textures: Sequence[str], star: Thing
) -> RoomPlan:
    """A place outdoors: ground, things near and far, at times a wall behind them."""
    camera = Camera(
        position=(0.0, 0.0, float(rng.uniform(0.5, 1.8))),
        target=(0.0, 10.0, float(rng.uniform(0.6, 1.6))),
        angle=float(rng.uniform(40, 65)),
        roll=float(rng.normal(0, 1.5)),
    )
    layout = Layout(width=GROUND, depth=GROUND, height=GROUND, walls=())
    _stand(rng, layout, star, camera, (0.25, 0.7))
    for _ in range(int(rng.integers(4, 12))):
        thing = stock.draw(rng, _is_outdoors, star.category, 0.4)
        if thing is not None:
            _stand(rng, layout, thing, camera, (0.1, 0.6))
    furthest = max((placement.box()[1, 1] for placement in layout.placements), default=5.0)
    walled = furthest < 14 and rng.random() < 0.4
    lamps, sky = outdoor_light(rng)
    return RoomPlan(
        kind="street",
        width=GROUND,
        depth=float(furthest + rng.uniform(0.1, 2)) if walled else GROUND,
        front=-5.0,
        height=float(rng.uniform(2.5, 6)) if walled else 0.0,
        walls=("back",) if walled else (),
        floor=_finish(rng, textures, 0.9, outdoors=True),
        wall=_finish(rng, textures, 0.7, outdoors=True),
        ceiling=Finish(texture=None, colour=(0.8, 0.8, 0.8), tile=1.0, roughness=0.9),
        placements=tuple(layout.placements),
        camera=camera,
        lamps=lamps,
        sky=sky,
        exposure=1.4 * _exposure(rng),  # much of it is sky
        contrast=float(rng.uniform(0.95, 1.4)),
        render_seed=int(rng.integers(2**31)),
    )


def _is_outdoors(thing: Thing) -> bool:
    """What stands about outdoors; what may lie on a floor may lie there too."""
    return thing.role == "ground" or thing.category == "Characters" or thing.floor_too


def _stand(
    rng: np.random.Generator,
    layout: Layout,
    thing: Thing,
    camera: Camera,
    shares: tuple[float, float],
) -> None:
    """Put a thing on the ground where it takes a share of the picture; none where others are."""
    half_view = math.tan(math.radians(camera.angle) / 2)
    longest = max(thing.size)
    for _ in range(10):
        share = math.exp(float(rng.uniform(math.log(shares[0]), math.log(shares[1]))))
        near = 0.9 + max(thing.size[:2]) / 2
        away = min(max(longest / (2 * half_view * share), near), FURTHEST)
        yaw = float(rng.uniform(-math.pi, math.pi))
        x = float(rng.uniform(-0.85, 0.85)) * away * half_view
        y = away + footprint(thing, yaw)[1] * 0.5
        place = Placement(thing=thing, position=(x, y, 0.0), yaw=yaw, tint=tint_of(rng, thing))
        box = place.box()[None]
        if room_camera.is_clear(camera.position, box, 0.4) and layout.add(place) is not None:
            return


def _exposure(rng: np.random.Generator) -> float:
    """Mean brightness of a picture: mostly middling, at times dark or bright."""
    return float(np.clip(0.2 * np.exp(rng.normal(0, 0.3)), 0.09, 0.42))


def _finish(
    rng: np.random.Generator, textures: Sequence[str], textured: float, *, outdoors: bool = False
) -> Finish:
    """Paint or a texture, in the colours of such surfaces."""
    fitting = [
        number
        for number, name in enumerate(textures)
        if not outdoors or any(word in name.lower() for word in OUTDOOR_TEXTURES)
    ]
    chance = float(rng.random())
    texture = fitting[int(rng.integers(len(fitting)))] if fitting and chance < textured else None
    value = float(rng.uniform(0.5, 1.1) if texture is not None else rng.uniform(0.15, 0.85))
    spread = 0.08 if rng.random() < 0.6 else 0.3
    red, green, blue = np.clip(value * np.exp(rng.normal(0, spread, 3)), 0.03, 1.1)
    tile = float(np.exp(rng.uniform(np.log(0.5), np.log(2.5)))) * (2 if outdoors else 1)
    return Finish(
        texture=texture,
        colour=(float(red), float(green), float(blue)),
        tile=tile,
        roughness=float(rng.uniform(0.25, 0.95)),
    )
