"""Scenes composed from cut-outs, with exact masks of what stays visible.

Objects are laid over a background one after the other, mostly the large ones first; an owner map
keeps, for every pixel, which object is on top. An object owns the pixels where its alpha, after
resampling, is above one half; what a later object covers is taken from it. So masks are disjoint
and exact by construction. A scene depends on its generator alone. Legend: M objects, H, W image,
h, w patch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mobius_seg.data import appearance
from mobius_seg.data.appearance import Light, Picture
from mobius_seg.data.backgrounds import Backdrops
from mobius_seg.data.expressions import Expression, SceneFacts, describe, find_confusable
from mobius_seg.data.patches import MIN_VISIBLE_PIXELS, PatchSource, above_half, rotate
from mobius_seg.errors import InputError

SIDE_RANGE = (0.05, 0.8)
"""Longest side of an object over the image's side, drawn log-uniformly (see docs/data.md)."""
MAX_OBJECTS = 12
CLOSE_SIDES = (0.35, 1.1)
"""The same in a close-up, as photographs of one thing are: it may reach over the borders."""
CLOSE_OBJECTS = (1, 3)
_TEXTURED = 40  # pixels: smaller objects show no texture
MIN_VISIBLE_SHARE = 0.2
MIN_INSIDE_SHARE = 0.4


class PictureSource(Protocol):
    """What the composer needs of a pack (see :class:`mobius_seg.data.pack.Pack`)."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the objects."""

    @property
    def name_embeddings(self) -> NDArray[np.floating]:
        """L2-normalised text vectors of the names, [N, D]."""

    @property
    def cutout_name(self) -> NDArray[np.integer]:
        """Row in names of every cut-out."""

    @property
    def cutout_object(self) -> NDArray[np.integer]:
        """Number of the drawing or model of every cut-out."""

    def cutout(self, index: int) -> Picture:
        """RGBA picture of a cut-out."""

    def background(self, index: int) -> Picture:
        """RGB picture of a background."""

    def colour(self, index: int) -> str | None:
        """Colour word of a cut-out."""

    def cutouts_for(self, split: str) -> NDArray[np.int64]:
        """Cut-outs of a split."""

    def backgrounds_for(self, split: str) -> NDArray[np.int64]:
        """Backgrounds of a split."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One composed picture and everything that is known about it.

    Attributes:
        image: RGB uint8 [H, W, 3].
        name_ids: int64 [M], rows of the pack's names.
        masks: bool [M, H, W], visible pixels; disjoint.
        boxes_xyxy: float32 [M, 4] around the visible pixels, right and bottom edges exclusive.
        colours: dominant colour word of each object, None where it has none.
        full_areas: int64 [M], pixels that each object would have were nothing in front of it and
            the image without borders.
        covers: int64 [M, M], pixels of object column that object row took.
        expressions: referring expressions with one right answer (empty unless asked for).
    """

    image: Picture
    name_ids: NDArray[np.int64]
    masks: NDArray[np.bool_]
    boxes_xyxy: NDArray[np.float32]
    colours: tuple[str | None, ...]
    full_areas: NDArray[np.int64]
    covers: NDArray[np.int64]
    expressions: tuple[Expression, ...] = ()

    @property
    def visible_shares(self) -> NDArray[np.float64]:
        """Visible part of every object, in 0..1, [M]."""
        return np.asarray(self.masks.sum((1, 2)) / np.maximum(self.full_areas, 1), np.float64)


class SceneComposer:
    """Composes scenes from the cut-outs and backgrounds of one split.

    Args:
        pack: an open pack.
        split: "train", "calib", "val-base" or "val-novel".
        size: height and width of the scenes in pixels.
        side_range: longest side of an object over the image's side, drawn log-uniformly.
        objects: fewest and most objects of a scene, at least 1 and at most 12.
        close_ratio: share of scenes that are close-ups: few objects, large ones.
        texture_ratio: share of the objects, from 40 pixels on, that get the relief of a background.

    Raises:
        InputError: unknown split, size out of range, or the split has no cut-out.
    """

    def __init__(
        self,
        pack: PictureSource,
        split: str,
        size: int = 256,
        *,
        side_range: tuple[float, float] = SIDE_RANGE,
        objects: tuple[int, int] = (1, MAX_OBJECTS),
        close_ratio: float = 0.0,
        texture_ratio: float = 0.0,
    ) -> None:
        """See the class."""
        if not 32 <= size <= 2048:
            raise InputError(f"size {size}: must be in 32..2048")
        cv2.setNumThreads(0)  # one process per core is faster than threads on small pictures
        self.pack = pack
        self.split = split
        self.size = size
        self.side_range, self.objects, self.close_ratio = side_range, objects, close_ratio
        self.texture_ratio = texture_ratio
        self._backdrops = Backdrops(pack, pack.backgrounds_for(split))
        self._patches = PatchSource(pack)
        self._choices = _by_name_and_object(pack, pack.cutouts_for(split))
        if not self._choices:
            raise InputError(f"split {split!r}: the pack holds no cut-out for it")
        self.name_ids = np.array(sorted(self._choices), np.int64)
        self._confusable: dict[int, frozenset[int]] | None = None

    def compose(self, rng: np.random.Generator, expressions: bool = False) -> Scene:
        """Compose one scene.

        Args:
            rng: source of every choice; equal generators give equal scenes.
            expressions: also describe objects in words.

        Returns:
            A scene; an object that finds no place is left out.
        """
        canvas = _Canvas.start(self._backdrops.draw(rng, self.size, self.size))
        light = Light.draw(rng)
        for _ in range(20):  # a second plan is needed only when a cut-out is all but transparent
            for name_id, length in self._plan(rng):
                cutout = self._pick(rng, name_id)
                patch = self._patch(rng, cutout, length)
                if canvas.place(rng, patch, light):
                    canvas.names.append(name_id)
                    canvas.cutouts.append(cutout)
            if canvas.names:
                return self._scene(rng, canvas, expressions)
        raise AssertionError(f"split {self.split!r}: its cut-outs show nothing")

    def _plan(self, rng: np.random.Generator) -> list[tuple[int, float]]:
        """(name, longest side in pixels) of every object, in drawing order."""
        objects, side_range = self.objects, self.side_range
        if self.close_ratio and rng.random() < self.close_ratio:
            objects, side_range = CLOSE_OBJECTS, CLOSE_SIDES
        count = int(rng.integers(objects[0], objects[1] + 1))
        names = [
            int(n) for n in rng.choice(self.name_ids, count, replace=len(self.name_ids) < count)
        ]
        if count > 1 and rng.random() < 0.4:  # several of one kind, to be told apart
            repeats = int(rng.integers(1, min(count, 4)))
            names[1 : 1 + repeats] = [names[0]] * repeats
        low, high = np.log(side_range)
        sides = np.exp(rng.uniform(low, high, count))
        if rng.random() < 0.8:  # large ones first, loosely
            order = np.argsort(-sides * np.exp(rng.normal(0, 0.5, count)), kind="stable")
        else:
            order = rng.permutation(count)
        return [(names[i], float(sides[i]) * self.size) for i in order]

    def _pick(self, rng: np.random.Generator, name_id: int) -> int:
        """A cut-out of a name: first the object evenly, then one of its views."""
        views = self._choices[name_id]
        chosen = views[int(rng.integers(len(views)))]
        return int(chosen[int(rng.integers(len(chosen)))])

    def _patch(self, rng: np.random.Generator, cutout: int, length: float) -> Picture:
        """A cut-out, ``length`` pixels long, changed in look and pose, premultiplied."""
        patch = self._patches.get(cutout, length)
        if rng.random() < 0.5:
            patch = np.asarray(cv2.flip(patch, 1), np.uint8)
        turned = rng.random() < 0.3
        angle = rng.uniform(-180, 180) if turned else rng.normal(0, 7)
        if rng.random() < 0.8:
            patch = appearance.recolour(rng, patch)
        if length > 24 and rng.random() < 0.4:
            patch = appearance.shade(rng, patch)
        if self.texture_ratio and length > _TEXTURED and rng.random() < self.texture_ratio:
            texture = self._backdrops.surface(rng, *patch.shape[:2])
            patch = appearance.weave(rng, patch, texture)
        if turned or rng.random() < 0.6:
            patch = rotate(patch, angle)
        if length > 24 and rng.random() < 0.25:  # out of focus: the edge softens with the object
            framed = cv2.copyMakeBorder(patch, 2, 2, 2, 2, cv2.BORDER_CONSTANT)
            patch = np.asarray(cv2.GaussianBlur(framed, (5, 5), rng.uniform(0.4, 1.0)), np.uint8)
        return patch

    def _scene(self, rng: np.random.Generator, canvas: "_Canvas", expressions: bool) -> Scene:
        """Finish the picture and read masks and boxes off the owner map."""
        count = len(canvas.names)
        labels = np.arange(1, count + 1, dtype=np.uint8)[:, None, None]
        masks = np.equal(canvas.owner[None], labels)
        scene = Scene(
            image=appearance.finish(rng, canvas.image),
            name_ids=np.array(canvas.names, np.int64),
            masks=masks,
            boxes_xyxy=boxes_of(masks),
            colours=tuple(self.pack.colour(c) for c in canvas.cutouts),
            full_areas=np.array(canvas.full_areas, np.int64),
            covers=canvas.covers[1 : count + 1, 1 : count + 1],
        )
        if not expressions:
            return scene
        return Scene(**{**scene.__dict__, "expressions": tuple(self._describe(rng, scene))})

    def _describe(self, rng: np.random.Generator, scene: Scene) -> list[Expression]:
        if self._confusable is None:
            self._confusable = find_confusable(
                self.pack.names, self.pack.name_embeddings, self.name_ids
            )
        facts = SceneFacts(
            names=tuple(self.pack.names[i] for i in scene.name_ids),
            confusable=tuple(
                frozenset(self.pack.names[j] for j in self._confusable[int(i)])
                for i in scene.name_ids
            ),
            colours=scene.colours,
            boxes_xyxy=scene.boxes_xyxy,
            areas=scene.masks.sum((1, 2)),
            visible_shares=scene.visible_shares,
            covers=scene.covers,
            size=(self.size, self.size),
        )
        return describe(rng, facts)


@dataclass
class _Canvas:
    """The picture being laid, and who owns each pixel: 0 the background, k object k - 1."""

    image: Picture
    owner: Picture
    covers: NDArray[np.int64]
    names: list[int] = field(default_factory=list)
    cutouts: list[int] = field(default_factory=list)
    full_areas: list[int] = field(default_factory=list)
    visible: list[int] = field(default_factory=list)
    places: list[tuple[float, float, float]] = field(default_factory=list)  # centre x, y, half side

    @classmethod
    def start(cls, background: Picture) -> "_Canvas":
        side = MAX_OBJECTS + 1
        owner = np.zeros(background.shape[:2], np.uint8)
        return cls(image=background, owner=owner, covers=np.zeros((side, side), np.int64))

    def place(self, rng: np.random.Generator, patch: Picture, light: Light) -> bool:
        """Find a spot where the patch shows and hides no other object too far, and lay it there.

        The first object always finds one: nothing is there to be hidden and the spot can be drawn
        inside. Returns False when no spot was found.
        """
        alpha = np.ascontiguousarray(patch[..., 3])
        own = above_half(alpha)
        full = cv2.countNonZero(own)
        for attempt in range(12):
            x, y = self._spot(rng, patch.shape[:2], attempt)
            region = appearance.overlap(self.owner.shape, own.shape, x, y)
            if region is None:
                continue
            inside = np.ascontiguousarray(own[region[1]])
            area = cv2.countNonZero(inside)
            if area < max(MIN_VISIBLE_PIXELS, MIN_INSIDE_SHARE * full):
                continue
            taken = self._taken(np.ascontiguousarray(self.owner[region[0]]), inside)
            if taken is None:
                continue
            appearance.cast_shadow(self.image, alpha, x, y, light)
            appearance.mix_in(self.image, patch, region)
            self._own(region[0], inside, area, full, taken)
            height, width = patch.shape[:2]
            self.places.append((x + width / 2, y + height / 2, max(height, width) / 2))
            return True
        return False

    def _spot(
        self, rng: np.random.Generator, patch: tuple[int, ...], attempt: int
    ) -> tuple[int, int]:
        """Top left corner: over an earlier object on purpose, anywhere, or across the border."""
        height, width = self.owner.shape
        if self.places and attempt < 6 and rng.random() < 0.5:
            x, y, reach = self.places[int(rng.integers(len(self.places)))]
            angle = rng.uniform(0, 2 * np.pi)
            far = (reach + max(patch) / 2) * rng.uniform(0.3, 0.8)
            x, y = x + far * np.cos(angle), y + far * np.sin(angle)
        else:
            over = 0.15 if attempt < 6 and rng.random() < 0.25 else 0.5
            x = rng.uniform(*_within(patch[1] * over, width))
            y = rng.uniform(*_within(patch[0] * over, height))
        return round(x - patch[1] / 2), round(y - patch[0] / 2)

    def _taken(self, under: Picture, inside: Picture) -> NDArray[np.int64] | None:
        """Pixels that each earlier object would lose, None when one would lose too many."""
        count = len(self.visible)
        histogram = cv2.calcHist([under], [0], inside, [count + 1], [0, count + 1])
        taken = histogram.ravel().astype(np.int64)
        for k in np.flatnonzero(taken[1:]):
            least = max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE * self.full_areas[k])
            if self.visible[k] - taken[k + 1] < least:
                return None
        return taken

    def _own(
        self,
        rows_columns: appearance.Region,
        inside: Picture,
        area: int,
        full: int,
        taken: NDArray[np.int64],
    ) -> None:
        number = len(self.visible) + 1
        self.owner[rows_columns][inside > 0] = number
        self.covers[number, : len(taken)] = taken
        for k in range(number - 1):
            self.visible[k] -= int(taken[k + 1])
        self.visible.append(area)
        self.full_areas.append(full)


def boxes_of(masks_MHW: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Tight boxes of masks.

    Args:
        masks_MHW: bool [M, H, W], none of them empty.

    Returns:
        float32 [M, 4] x0, y0, x1, y1 with exclusive right and bottom edges.
    """
    rows, columns = np.asarray(masks_MHW.any(2)), np.asarray(masks_MHW.any(1))
    height, width = masks_MHW.shape[1:]
    return np.stack(
        [
            columns.argmax(1),
            rows.argmax(1),
            width - columns[:, ::-1].argmax(1),
            height - rows[:, ::-1].argmax(1),
        ],
        axis=1,
    ).astype(np.float32)


def _by_name_and_object(
    pack: PictureSource, cutouts: NDArray[np.int64]
) -> dict[int, list[NDArray[np.int64]]]:
    """Name -> its drawings and models -> their cut-outs."""
    groups: dict[int, dict[int, list[int]]] = {}
    for cutout in cutouts:
        name, obj = int(pack.cutout_name[cutout]), int(pack.cutout_object[cutout])
        groups.setdefault(name, {}).setdefault(obj, []).append(int(cutout))
    return {
        name: [np.array(views, np.int64) for views in objects.values()]
        for name, objects in groups.items()
    }


def _within(margin: float, side: int) -> tuple[float, float]:
    """Range of a centre that keeps ``margin`` to both borders, the middle when there is none."""
    return (margin, side - margin) if 2 * margin < side else (side / 2, side / 2 + 1e-6)
