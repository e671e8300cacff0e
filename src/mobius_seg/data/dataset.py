"""Composed scenes as training samples, made on the fly.

Sample ``i`` of a data set depends on (seed, i) alone, so that a training can stop at any step and
go on exactly there, in any number of worker processes.
"""

from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mobius_seg.data.compose import scene_rng
from mobius_seg.data.pack import Pack
from mobius_seg.data.patches import MIN_VISIBLE_PIXELS
from mobius_seg.data.sample import Sample
from mobius_seg.data.scenes import Scene, SceneComposer, boxes_of
from mobius_seg.errors import InputError

PADDING = 114
"""Grey level of padding, as the predictor pads."""
_SMALLER = 0.62  # side of an enlarged scene over the sample's: val scenes have 256 pixels of 416


class ComposedSamples(Dataset[Sample]):
    """Endless composed scenes as samples: ``samples[i]`` for any i >= 0.

    Args:
        pack: an open pack.
        split: "train", "calib", "val-base" or "val-novel".
        size: height and width in pixels.
        seed: whole number >= 0.
        names_ratio: weight of samples asked by names.
        expression_ratio: weight of samples asked by one referring expression; a scene with no
            clear expression is asked by names instead.
        agnostic_ratio: weight of samples without names (class-agnostic).
        letterbox: probability that a scene is cut to another aspect ratio and padded with grey at
            the bottom or right, as the predictor pads pictures that are not square. Samples with
            an expression are left whole, as cutting would change what is leftmost or largest.
        enlarge: probability that a scene is composed at 0.62 of the size and enlarged, as the
            predictor enlarges pictures that are smaller than its input.
        close: probability that a scene is a close-up: few objects, large ones.
        texture: probability that an object, from 40 pixels on, gets the relief of a background.
        length: what ``len()`` says; indices may go beyond it.

    Raises:
        InputError: a ratio is negative, or all are zero; unknown split.
    """

    def __init__(
        self,
        pack: Pack,
        *,
        split: str = "train",
        size: int = 256,
        seed: int = 0,
        names_ratio: float = 0.7,
        expression_ratio: float = 0.15,
        agnostic_ratio: float = 0.15,
        letterbox: float = 0.0,
        enlarge: float = 0.0,
        close: float = 0.0,
        texture: float = 0.0,
        length: int = 1_000_000,
    ) -> None:
        """See the class."""
        ratios = np.array([names_ratio, expression_ratio, agnostic_ratio], np.float64)
        if not (np.isfinite(ratios).all() and ratios.min() >= 0 and ratios.sum() > 0):
            raise InputError(f"ratios {ratios.tolist()}: must be >= 0 and not all zero")
        shares = {"letterbox": letterbox, "enlarge": enlarge, "close": close, "texture": texture}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise InputError(f"{name} {share}: must be in 0..1")
        composer = partial(SceneComposer, close_ratio=close, texture_ratio=texture)
        self.composer = composer(pack, split, size)
        self._small = self.composer
        if enlarge:
            smaller = max(32, round(size * _SMALLER))
            self._small = composer(pack, split, smaller)
        self._enlarge = enlarge
        self.seed = seed
        self._limits = np.cumsum(ratios / ratios.sum())
        self._letterbox = letterbox
        self._length = length

    def __len__(self) -> int:
        """The nominal length; there is no last sample."""
        return self._length

    def __getitem__(self, index: int) -> Sample:
        """Compose sample ``index``.

        Returns:
            A sample with image [3, size, size], masks [M, size, size] and boxes in pixels, all
            visible objects annotated.
        """
        rng = scene_rng(self.seed, index)
        drawn = rng.random()
        spoken = self._limits[0] <= drawn < self._limits[1]
        scene = self._scene(rng, bool(spoken))
        if spoken and scene.expressions:
            expression = scene.expressions[int(rng.integers(len(scene.expressions)))]
            return self._sample(
                scene.image,
                scene.masks,
                self._names(scene),
                expression.text,
                (expression.instance,),
            )
        names = None if drawn >= self._limits[1] else self._names(scene)
        image, masks = scene.image, scene.masks
        if rng.random() < self._letterbox:
            image, masks, kept = _cut_and_pad(rng, image, masks)
            names = None if names is None else tuple(names[i] for i in kept)
        return self._sample(image, masks, names)

    def _scene(self, rng: np.random.Generator, spoken: bool) -> Scene:
        """A scene of the sample's size."""
        if self._enlarge == 0 or rng.random() >= self._enlarge:
            return self.composer.compose(rng, expressions=spoken)
        small = self._small.compose(rng, expressions=spoken)
        side = (self.composer.size, self.composer.size)
        image = np.asarray(cv2.resize(small.image, side, interpolation=cv2.INTER_LINEAR), np.uint8)
        layers = [cv2.resize(mask.astype(np.float32), side) > 0.5 for mask in small.masks]
        masks = np.stack(layers).astype(np.bool_)
        gain = (self.composer.size / self._small.size) ** 2
        return replace(
            small,
            image=image,
            masks=masks,
            boxes_xyxy=boxes_of(masks),
            full_areas=np.maximum(np.rint(small.full_areas * gain), masks.sum((1, 2))).astype(int),
            covers=np.rint(small.covers * gain).astype(int),
        )

    def _names(self, scene: Scene) -> tuple[str, ...]:
        return tuple(self.composer.pack.names[i] for i in scene.name_ids)

    def _sample(
        self,
        image_HW3: NDArray[np.uint8],
        masks_MHW: NDArray[np.bool_],
        names: tuple[str, ...] | None,
        expression: str | None = None,
        referred: tuple[int, ...] = (),
    ) -> Sample:
        return Sample(
            image=_tensor(image_HW3.transpose(2, 0, 1)),
            boxes_xyxy=_tensor(boxes_of(masks_MHW)),
            masks=_tensor(masks_MHW),
            names=names,
            expression=expression,
            referred=referred,
        )


def _tensor(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _cut_and_pad(
    rng: np.random.Generator, image_HW3: NDArray[np.uint8], masks_MHW: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], list[int]]:
    """Keep a band of the scene, move it to the top left and pad; indices of the objects left.

    At least the object that shows most is always kept.
    """
    side = image_HW3.shape[0]
    wide = rng.random() < 0.5
    band = round(side * rng.uniform(0.5, 0.95))
    most = int(masks_MHW.sum((1, 2)).argmax())
    low, high = np.flatnonzero(masks_MHW[most].any(1 if wide else 0))[[0, -1]]
    centre = (int(low) + int(high)) // 2
    start = int(np.clip(centre - rng.integers(band // 4, 3 * band // 4 + 1), 0, side - band))
    axis = 0 if wide else 1
    image = np.full_like(image_HW3, PADDING)
    masks = np.zeros_like(masks_MHW)
    inside = slice(start, start + band)
    if axis == 0:
        image[:band] = image_HW3[inside]
        masks[:, :band] = masks_MHW[:, inside]
    else:
        image[:, :band] = image_HW3[:, inside]
        masks[:, :, :band] = masks_MHW[:, :, inside]
    areas = masks.sum((1, 2))
    kept = [int(i) for i in np.flatnonzero(areas >= MIN_VISIBLE_PIXELS)]
    return image, masks[kept], kept
