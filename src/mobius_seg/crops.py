"""Objects cut out of a picture by their masks, each alone on grey, as a classifier takes them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from mobius_seg.data.rle import decode_mask

GREY = 127


def cut_out(
    picture: NDArray[np.uint8], rle: dict[str, Any], side: int, margin: float
) -> NDArray[np.uint8]:
    """One object on grey, in the middle of a square.

    The square is the longer side of the mask's box enlarged by ``margin``; what of it lies outside
    the picture is grey as well. Colour and mask are resized each on its own, averaging over pixels
    when shrinking, and then combined, so that edges stay soft at the size that is returned.

    Args:
        picture: uint8 RGB [H, W, 3].
        rle: its mask in the compressed COCO form, of the same H and W, not empty.
        side: of the result in pixels.
        margin: factor of the longer side, 1 or more.

    Returns:
        uint8 RGB [side, side, 3].
    """
    height, width = picture.shape[:2]
    x, y, w, h = (float(value) for value in coco_mask.toBbox(rle))
    full = max(w, h) * margin
    left, top = x + w / 2 - full / 2, y + h / 2 - full / 2
    box = (max(0.0, left), max(0.0, top), min(width, left + full), min(height, top + full))
    x0, y0, x1, y1 = (
        round((value - start) * side / full)
        for value, start in zip(box, (left, top, left, top), strict=True)
    )
    size = (max(x1, x0 + 1) - x0, max(y1, y0 + 1) - y0)
    mask_HW = decode_mask(rle["counts"].encode("ascii"), height, width)
    colour, share = (
        _resized(array, box, size) for array in (picture, mask_HW.astype(np.uint8) * 255)
    )
    alpha = share[..., None] / 255
    square = np.full((side, side, 3), GREY, np.uint8)
    square[y0 : y0 + size[1], x0 : x0 + size[0]] = np.rint(colour * alpha + GREY * (1 - alpha))
    return square


def cut_outs(
    picture: NDArray[np.uint8], rles: Sequence[dict[str, Any]], side: int, margin: float
) -> NDArray[np.uint8]:
    """Several objects of a picture: uint8 [N, side, side, 3], see :func:`cut_out`."""
    squares = [cut_out(picture, rle, side, margin) for rle in rles]
    return np.stack(squares) if squares else np.zeros((0, side, side, 3), np.uint8)


def _resized(
    array: NDArray[np.uint8], box: tuple[float, float, float, float], size: tuple[int, int]
) -> NDArray[np.float32]:
    """A part of a picture or mask at (width, height) ``size``; the rest is not touched."""
    column, row = int(box[0]), int(box[1])
    part = array[row : math.ceil(box[3]), column : math.ceil(box[2])]
    inside = (box[0] - column, box[1] - row, box[2] - column, box[3] - row)
    resized = Image.fromarray(part).resize(size, Image.Resampling.BILINEAR, inside)
    return np.asarray(resized, np.float32)
