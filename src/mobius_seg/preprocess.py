"""From a picture of any size to the network's input.

Shapes: H and W of the original picture, B images of a batch.

The picture is resized so that its longest side is the asked size, and padded at the bottom and the
right with grey to multiples of 32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

PAD_VALUE = 114
STRIDE = 32


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where a picture lies in the network's input.

    Attributes:
        original: (H, W) of the picture.
        resized: (height, width) after resizing, at the top left of the padded input.
        padded: (height, width) of the input.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]


def make_frame(height: int, width: int, size: int) -> Frame:
    """Lay a picture of ``height`` x ``width`` pixels into an input whose longest side is ``size``.

    The padded sides are the next multiples of 32; no side is below one pixel before padding.
    """
    scale = size / max(height, width)
    resized = (max(1, round(height * scale)), max(1, round(width * scale)))
    padded = tuple(-(-side // STRIDE) * STRIDE for side in resized)
    return Frame(original=(height, width), resized=resized, padded=(padded[0], padded[1]))


def make_fixed_frame(height: int, width: int, sides: tuple[int, int]) -> Frame:
    """Lay a picture of ``height`` x ``width`` pixels into an input of the given sides.

    It is resized as far as it fits; ``sides`` are multiples of 32.
    """
    scale = min(sides[0] / height, sides[1] / width)
    resized = (
        min(sides[0], max(1, round(height * scale))),
        min(sides[1], max(1, round(width * scale))),
    )
    return Frame(original=(height, width), resized=resized, padded=sides)


def resize(image: NDArray[np.uint8], frame: Frame) -> NDArray[np.uint8]:
    """Resize uint8 [H, W, 3] to ``frame.resized``, averaging over the pixels when shrinking."""
    if image.shape[:2] == frame.resized:
        return image
    height, width = frame.resized
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8)


def pad_and_stack(images: Sequence[NDArray[np.uint8]], frame: Frame) -> Tensor:
    """Pad resized pictures to ``frame.padded`` and stack them.

    Args:
        images: B arrays uint8 [h, w, 3] that fit into ``frame.padded``.
        frame: gives the padded size, which all share.

    Returns:
        float32 [B, 3, height, width] in 0..1.
    """
    batch = np.full((len(images), *frame.padded, 3), PAD_VALUE, np.uint8)
    for row, image in enumerate(images):
        batch[row, : image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(batch).permute(0, 3, 1, 2).float().div_(255)
