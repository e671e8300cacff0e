"""Any COCO instance data set: its file, checked, and its pictures as training samples."""

import copy
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mobius_seg.data.coco_file import (
    CocoAnnotation,
    CocoData,
    CocoImage,
    Rle,
    picture_path,
    read_coco,
)
from mobius_seg.data.sample import Sample
from mobius_seg.errors import InputError
from mobius_seg.imageio import load_image
from mobius_seg.preprocess import PAD_VALUE, Frame, make_frame, resize

__all__ = [
    "CocoAnnotation",
    "CocoData",
    "CocoImage",
    "CocoSamples",
    "Rle",
    "load_sized",
    "picture_path",
    "read_coco",
]


class CocoSamples:
    """The pictures of a COCO data set as samples to learn from, by index.

    Crowd regions are left out. So are degenerate instances (no width or height inside the picture,
    an empty mask, or one that vanishes when the picture is shrunk); a warning says so once. Where
    an instance of a picture has no mask, the sample has only boxes. A picture without instances is
    a sample without instances: it teaches what is not there.

    Args:
        annotations: COCO instance file, or what :func:`read_coco` returned.
        images: folder that its file names are relative to; every picture must be there.
        size: side in pixels of square samples: the longest side is scaled to it, and the rest is
            padded with grey at the bottom and the right. None leaves pictures as they are.

    Raises:
        InputError: the file is malformed, a picture is missing, the size is not positive, or no
            instance is left to learn from.
    """

    def __init__(
        self, annotations: str | Path | CocoData, images: str | Path, *, size: int | None = None
    ) -> None:
        if size is not None and size < 1:
            raise InputError(f"size is {size}; allowed: a whole number of at least 1")
        self.coco = annotations if isinstance(annotations, CocoData) else read_coco(annotations)
        self._folder = Path(images)
        if not self._folder.is_dir():
            raise InputError(f"{self._folder}: no such folder of pictures")
        for image in self.coco.images:
            picture_path(image, self._folder)
        self._size = size
        self._kept, left_out = self._usable()
        self._warned = bool(left_out)
        if left_out:
            self._warn(f"{left_out} instances")
        if not any(self._kept):
            raise InputError(f"{self.coco.path}: no instance to learn from; allowed: at least one")

    @property
    def names(self) -> tuple[str, ...]:
        """The distinct category names."""
        return self.coco.names

    def sized(self, size: int) -> "CocoSamples":
        """The same pictures as square samples of ``size`` pixels; nothing is read again."""
        other = copy.copy(self)
        other._size = size
        return other

    def __len__(self) -> int:
        return len(self.coco.images)

    def __getitem__(self, index: int) -> Sample:
        """The sample of picture ``index``.

        Raises:
            InputError: the picture cannot be read, or is not of the size that the file says.
            IndexError: there is no such picture.
        """
        return self.with_rows(index)[0]

    def with_rows(self, index: int) -> tuple[Sample, list[int]]:
        """The sample of picture ``index``, and which annotation each of its instances is.

        Raises:
            InputError: as above.
            IndexError: there is no such picture.
        """
        image = self.coco.images[index]
        picture = load_sized(image, self._folder, self.coco.path)
        frame = make_frame(image.height, image.width, self._size or max(image.height, image.width))
        height, width = frame.resized
        canvas = frame.resized if self._size is None else (self._size, self._size)
        kept, masks = self._masks(index, frame, canvas)
        boxes = [_clipped(self.coco.annotations[i], image) for i in kept]
        ratios = np.array([width / image.width, height / image.height] * 2, dtype=np.float32)
        boxes_xyxy = np.array(boxes, dtype=np.float32).reshape(-1, 4) * ratios
        pixels = np.full((*canvas, 3), PAD_VALUE, dtype=np.uint8)
        pixels[:height, :width] = resize(picture, frame)
        names = self.coco.names
        sample = Sample(
            image=torch.from_numpy(pixels).permute(2, 0, 1).contiguous(),
            boxes_xyxy=torch.from_numpy(boxes_xyxy),
            masks=None if masks is None else torch.from_numpy(masks),
            names=tuple(names[self.coco.annotations[i].name] for i in kept),
            exhaustive=image.absent is None,
            absent=tuple(names[row] for row in image.absent or ()),
        )
        return sample, kept

    def _usable(self) -> tuple[list[list[int]], int]:
        """Annotations to learn from, per picture, and how many degenerate ones were left out."""
        kept: list[list[int]] = []
        left_out = 0
        for row, indices in enumerate(self.coco.by_image):
            single = [i for i in indices if not self.coco.annotations[i].crowd]
            image = self.coco.images[row]
            kept.append([])
            for i in single:
                x0, y0, x1, y1 = _clipped(self.coco.annotations[i], image)
                if x1 > x0 and y1 > y0:
                    kept[-1].append(i)
            left_out += len(single) - len(kept[-1])
        return kept, left_out

    def _masks(
        self, index: int, frame: Frame, canvas: tuple[int, int]
    ) -> tuple[list[int], NDArray[np.bool_] | None]:
        """Which annotations are left and their masks [M, H, W] on the canvas, or None."""
        image, indices = self.coco.images[index], self._kept[index]
        kept, masks = [], []
        boxes_only = any(self.coco.annotations[i].segmentation is None for i in indices)
        if boxes_only:
            return indices, None
        for i in indices:
            mask = self.coco.mask(i)
            assert mask is not None
            small = resize(mask.astype(np.uint8) * np.uint8(255), frame) >= 128
            if small.any():
                kept.append(i)
                masks.append(np.zeros(canvas, dtype=bool))
                masks[-1][: small.shape[0], : small.shape[1]] = small
        if len(kept) < len(indices) and not self._warned:
            self._warned = True
            self._warn(f"instances without a mask of a pixel, such as on {image.file_name!r:.100},")
        return kept, np.stack(masks) if masks else np.zeros((0, *canvas), dtype=bool)

    def _warn(self, what: str) -> None:
        """Tell that degenerate instances are not learnt."""
        warnings.warn(
            f"{self.coco.path}: {what} are left out: they cover no pixel of their picture",
            stacklevel=3,
        )


def load_sized(image: CocoImage, folder: Path, file: Path) -> NDArray[np.uint8]:
    """A picture of the data set, uint8 [H, W, 3], of the size that the file says.

    Args:
        image: entry of the picture.
        folder: that file names are relative to.
        file: the annotation file, for the message.

    Raises:
        InputError: the picture is missing, cannot be read, or is of another size.
    """
    picture = load_image(picture_path(image, folder))
    height, width = picture.shape[:2]
    if (height, width) != (image.height, image.width):
        raise InputError(
            f"{file}: image id {image.id} is {image.width} x {image.height}, but "
            f"{image.file_name!r:.100} is {width} x {height} (after EXIF orientation)"
        )
    return picture


def _clipped(annotation: CocoAnnotation, image: CocoImage) -> tuple[float, float, float, float]:
    """The box as x0, y0, x1, y1, cut to the picture; empty boxes keep no width or height."""
    x, y, w, h = annotation.bbox
    x0, x1 = (min(max(v, 0.0), float(image.width)) for v in (x, x + w))
    y0, y1 = (min(max(v, 0.0), float(image.height)) for v in (y, y + h))
    return x0, y0, x1, y1
