"""What the planner of rooms knows of a furniture model: where it belongs and what it carries.

The catalogue gives real sizes, the height at which a thing hangs and the height at which others
stand on it; the rest follows from names. Lengths are metres, x to the right, y to the back, z up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mobius_seg.data.catalogue import FurnitureModel
from mobius_seg.data.names import head_noun

Role = Literal["floor", "wall", "ceiling", "small", "ground", "rug"]
Surface = Literal["top", "seat", "shelf"]

SMALL_SIDE = 0.62
"""Longest side and height up to which a thing stands on furniture."""
FLAT_SIDE, FLAT_HEIGHT = 1.0, 0.06
"""The same for what lies flat: clothes, racket, chopping board."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split(","))


_LEFT_OUT = _words(
    "elevator,elevator door,escalator,spiral staircase,garage door,railing,hanging clothes,"
    "diving board,computer monitor,shower door,mannequin,oriental rug"
)
"""Parts of a building, and models whose name or pose would mislead in a room."""
_CEILING = _words(
    "ceiling fan,ceiling lamp,chandelier lamp,hanging light,pendant lamp,smoke detector,"
    "track lighting"
)
_WALL_HEIGHTS = {
    "range hood": 1.6,
    "surveillance camera": 2.1,
    "thermometer": 1.5,
    "clothes hanger": 1.3,
    "intercom": 1.2,
    "emergency sign": 2.1,
}
"""Heights of what hangs on a wall where the catalogue states none."""
_FLOOR_NAMES = _words(
    "bedside table,trash can,toilet,toilet brush,potty,boots,slippers,fire extinguisher,crate,"
    "washbasin,radiator,clothes basket,pouf,filing cabinet,safe,firewood,step ladder,"
    "shopping basket,rocking horse,oven,suitcase,shovel"
)
_ON_FLOOR_TOO = _words(
    "backpack,briefcase,handbag,box,cardboard box,gift box,soccer ball,teddy bear,toy car,"
    "toy train,speaker,potted plant,vase,helmet,fan,skateboard,wooden toy,folded clothes"
)
_SMALL_NAMES = frozenset({"tv", "table lamp", "keyboard"})
"""Stand on furniture although they are large."""
_GROUND_NAMES = _words("shipping container,street lamp,fence,lawn mower,traffic cone,pallet")
_INDOOR_VEHICLES = frozenset({"stroller", "tricycle", "skateboard", "scooter"})
_NOUNS_ON_FLOOR = _words(
    "chair,table,stool,bench,bed,cabinet,sofa,couch,shelf,bookcase,armchair,ottoman,drawer"
)
_BACKED_NOUNS = _words(
    "sofa,bed,couch,bookcase,shelf,cabinet,chest,cupboard,dresser,fridge,oven,machine,dryer,sink,"
    "washbasin,toilet,bathtub,radiator,stand,piano,safe,locker,freezer,workbench,furnace,crib,"
    "whiteboard,door,stall,futon,broom,curtain,jacuzzi,exercise machine,island"
)
_BACKED_NAMES = frozenset({"dressing table", "changing table", "water cooler"})
_FREE_NAMES = frozenset({"grand piano", "freestanding bathtub", "exercise machine", "futon"})
_SUPPORT_NOUNS: dict[str, float] = {
    "table": 5.0,
    "cabinet": 3.0,
    "chest": 3.0,
    "dresser": 4.0,
    "shelf": 3.0,
    "bookcase": 2.0,
    "island": 4.0,
    "workbench": 3.0,
    "stand": 3.0,
    "cupboard": 1.5,
    "freezer": 2.0,
    "machine": 1.5,
    "dryer": 1.5,
    "bench": 1.5,
    "box": 1.0,
    "crate": 1.0,
    "barrel": 1.0,
    "stool": 1.0,
    "chair": 0.6,
    "armchair": 0.5,
    "sofa": 1.0,
    "couch": 1.0,
    "bed": 1.0,
}
"""How likely a thing is put on each kind of furniture, against the others."""
_NO_SUPPORT = _words(
    "bunk bed,loft bed,foosball table,pinball machine,exercise machine,beach chair,deck chair,"
    "high chair,drafting table,child bed,hospital bed,glass door cabinet,rattan table"
)
_SEAT_NOUNS = _words("chair,armchair,sofa,couch,bench,bed,stool")
_RUGS = _words("bathmat,oriental rug,doormat")
_RECOLOURED = _words("Living room,Office,Bedroom,Bathroom,Lights,Kitchen")
_OUTDOORS = frozenset({"Exterior", "Vehicles"})


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A model as the planner sees it.

    Attributes:
        key: of the model.
        name: cleaned name.
        category: the catalogue's.
        size: width (x), depth (y) and height (z) in metres.
        role: where it belongs; "small" things stand on others.
        elevation: height of its base above the floor, for what hangs on a wall.
        top: height above its base at which small things stand on it; None where nothing does.
        surface: what kind of surface that is.
        weight: how readily it is given something to carry.
        backed: whether it stands with its back to a wall.
        floor_too: whether a small thing may lie on the floor.
        recolour: whether its plain surfaces may have another colour.
    """

    key: str
    name: str
    category: str
    size: tuple[float, float, float]
    role: Role
    elevation: float = 0.0
    top: float | None = None
    surface: Surface = "top"
    weight: float = 0.0
    backed: bool = False
    floor_too: bool = False
    recolour: bool = False

    @property
    def carries(self) -> bool:
        """Whether small things may stand on it."""
        return self.top is not None and self.weight > 0


def make_thing(model: FurnitureModel, name: str) -> Thing | None:
    """Say where a model belongs.

    Args:
        model: of the catalogue.
        name: its cleaned name.

    Returns:
        None for what is no thing of a room or a street.
    """
    if name in _LEFT_OUT or min(model.size_cm) <= 0:
        return None
    width, height, depth = (side / 100 for side in model.size_cm)
    pose = model.name.lower()
    if ("sitting" in pose and height > 1.2) or ("lying" in pose and height > 0.5):
        return None  # a pose that needs a seat of just that height under it
    role, elevation = _role(model, name, (width, depth, height))
    noun = head_noun(name)
    top = None if model.drop_cm is None else model.drop_cm / 100
    weight = 0.0 if name in _NO_SUPPORT else _SUPPORT_NOUNS.get(noun, 0.0)
    if role not in ("floor", "ground") or top is None or not 0.15 <= top <= 1.4:
        weight = 0.0
    if min(width, depth) < 0.28:
        weight = 0.0
    inside = top is not None and top < height - 0.04
    surface: Surface = "top" if not inside else "seat" if noun in _SEAT_NOUNS else "shelf"
    backed = (noun in _BACKED_NOUNS or name in _BACKED_NAMES) and name not in _FREE_NAMES
    return Thing(
        key=model.key,
        name=name,
        category=model.category,
        size=(width, depth, height),
        role=role,
        elevation=elevation,
        top=top,
        surface=surface,
        weight=weight,
        backed=backed or model.category == "Doors and windows",
        floor_too=name in _ON_FLOOR_TOO,
        recolour=model.category in _RECOLOURED,
    )


def _role(model: FurnitureModel, name: str, size: tuple[float, float, float]) -> tuple[Role, float]:
    """Role and height of the base, from the catalogue where it says so, else from name and size."""
    width, depth, height = size
    elevation = model.elevation_cm / 100
    if name in _CEILING or (elevation >= 1 and 2.45 <= elevation + height <= 2.6):
        return "ceiling", 0.0
    if elevation > 0:
        return "wall", elevation
    if name in _WALL_HEIGHTS:
        return "wall", _WALL_HEIGHTS[name]
    if name in _RUGS:
        return "rug", 0.0
    outdoors = model.category in _OUTDOORS and name not in _INDOOR_VEHICLES
    if outdoors or name in _GROUND_NAMES:
        return "ground", 0.0
    if name in _SMALL_NAMES:
        return "small", 0.0
    if model.category in ("Characters", "Doors and windows"):
        return ("ground" if height > 1.9 and model.category == "Characters" else "floor"), 0.0
    longest = max(width, depth)
    small = (longest <= SMALL_SIDE and height <= SMALL_SIDE) or (
        longest <= FLAT_SIDE and height <= FLAT_HEIGHT
    )
    if small and name not in _FLOOR_NAMES and head_noun(name) not in _NOUNS_ON_FLOOR:
        return "small", 0.0
    return "floor", 0.0


class Stock:
    """Things to draw from, evenly over names, then over the models of a name.

    Args:
        things: all of them.
    """

    def __init__(self, things: Sequence[Thing]) -> None:
        """See the class."""
        self.things = tuple(things)
        self._by_name: dict[str, list[Thing]] = {}
        for thing in self.things:
            self._by_name.setdefault(thing.name, []).append(thing)
        self.names = tuple(sorted(self._by_name))

    def star(self, rng: np.random.Generator) -> Thing:
        """A thing of any name: what a scene is made around."""
        models = self._by_name[self.names[int(rng.integers(len(self.names)))]]
        return models[int(rng.integers(len(models)))]

    def draw(
        self,
        rng: np.random.Generator,
        fits: Callable[[Thing], bool],
        category: str | None = None,
        loyalty: float = 0.7,
    ) -> Thing | None:
        """A thing that fits, mostly of a category.

        Args:
            rng: source of every choice.
            fits: whether a thing may be drawn.
            category: preferred, if something of it fits.
            loyalty: how often it is.

        Returns:
            None where nothing fits.
        """
        stay = rng.random() < loyalty
        fitting = [thing for thing in self.things if fits(thing)]
        same = [thing for thing in fitting if thing.category == category]
        chosen = same if stay and same else fitting
        if not chosen:
            return None
        names = sorted({thing.name for thing in chosen})
        name = names[int(rng.integers(len(names)))]
        models = [thing for thing in chosen if thing.name == name]
        return models[int(rng.integers(len(models)))]
