"""Cut-outs at the size in which they are pasted: premultiplied, scaled, turned.

Half of the objects of a scene are smaller than a quarter of their cut-out. So every cut-out is kept
in halved sizes as well, which are small enough to stay in memory, and a patch is scaled from the
smallest one that is large enough. Legend: h, w patch size.
"""

from collections import OrderedDict
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mobius_seg.data.appearance import premultiply

Picture = NDArray[np.uint8]

MIN_VISIBLE_PIXELS = 12
"""Least visible area of an annotated object."""
_HALF = 127  # an object owns the pixels whose alpha is above one half
_LEVELS = 4
_CACHE_BYTES = 400 * 2**20


class CutoutSource(Protocol):
    """What gives cut-outs (see :class:`mobius_seg.data.pack.Pack`)."""

    def cutout(self, index: int) -> Picture:
        """RGBA picture of a cut-out."""


class PatchSource:
    """Scales cut-outs, and keeps their halved sizes.

    What it returns does not depend on what it has in store.

    Args:
        source: the pack.
        cache_bytes: how much of the halved sizes to keep, the latest used ones.
    """

    def __init__(self, source: CutoutSource, cache_bytes: int = _CACHE_BYTES) -> None:
        """See the class."""
        self._source = source
        self._limit = cache_bytes
        self._size = 0
        self._shapes: dict[int, tuple[int, int]] = {}
        self._kept: OrderedDict[tuple[int, int], Picture] = OrderedDict()

    def get(self, cutout: int, length: float) -> Picture:
        """A cut-out with its longest side ``length`` pixels long.

        Very thin objects are made longer, until they cover enough pixels to be annotated.

        Args:
            cutout: index in the pack.
            length: pixels.

        Returns:
            Premultiplied uint8 [h, w, 4], shared with nobody.
        """
        if cutout not in self._shapes:
            height, width = self._source.cutout(cutout).shape[:2]
            self._shapes[cutout] = (height, width)
        side = max(self._shapes[cutout])
        level = 0
        while level + 1 < _LEVELS and side / 2 ** (level + 1) >= max(length, 16):
            level += 1
        return _fit(self._level(cutout, level), length)

    def _level(self, cutout: int, level: int) -> Picture:
        """The premultiplied cut-out, halved ``level`` times."""
        if level == 0:
            return premultiply(self._source.cutout(cutout))
        key = (cutout, level)
        picture = self._kept.get(key)
        if picture is not None:
            self._kept.move_to_end(key)
            return picture
        picture = self._level(cutout, 0)
        for step in range(1, _LEVELS):  # all of them: the costly part is decoding
            height, width = (max(1, (side + 1) // 2) for side in picture.shape[:2])
            picture = np.asarray(
                cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8
            )
            self._keep((cutout, step), picture)
        return self._kept[key]

    def _keep(self, key: tuple[int, int], picture: Picture) -> None:
        if key not in self._kept:
            self._size += picture.nbytes
        self._kept[key] = picture
        self._kept.move_to_end(key)
        while self._size > self._limit and len(self._kept) > _LEVELS:
            _, dropped = self._kept.popitem(last=False)
            self._size -= dropped.nbytes


def above_half(alpha_hw: Picture) -> Picture:
    """Pixels that an object owns.

    Args:
        alpha_hw: uint8 [h, w].

    Returns:
        uint8 [h, w], 255 where alpha is above one half and 0 elsewhere.
    """
    return np.asarray(cv2.threshold(alpha_hw, _HALF, 255, cv2.THRESH_BINARY)[1], np.uint8)


def rotate(patch_hw4: Picture, degrees: float) -> Picture:
    """Turn about the centre, on a canvas that holds the whole result.

    Args:
        patch_hw4: premultiplied uint8 [h, w, 4].
        degrees: anticlockwise.

    Returns:
        Premultiplied uint8 [h', w', 4].
    """
    height, width = patch_hw4.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), degrees, 1.0)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    new_width = int(np.ceil(height * sin + width * cos)) + 2
    new_height = int(np.ceil(height * cos + width * sin)) + 2
    matrix[0, 2] += (new_width - width) / 2
    matrix[1, 2] += (new_height - height) / 2
    return np.asarray(cv2.warpAffine(patch_hw4, matrix, (new_width, new_height)), np.uint8)


def _fit(patch_hw4: Picture, length: float) -> Picture:
    """Scale so that the longest side is ``length``; very thin objects are kept big enough."""
    scale = length / max(patch_hw4.shape[:2])
    if length < 48:  # only there can the area fall below the least one
        share = cv2.countNonZero(above_half(patch_hw4[..., 3]))
        enough = float(np.sqrt(1.6 * MIN_VISIBLE_PIXELS / max(share, 1)))
        scale = min(max(scale, enough), 4 * scale)
    height, width = (max(1, round(side * scale)) for side in patch_hw4.shape[:2])
    method = cv2.INTER_AREA if scale < 0.45 else cv2.INTER_LINEAR  # halved before: no aliasing
    return np.asarray(cv2.resize(patch_hw4, (width, height), interpolation=method), np.uint8)
