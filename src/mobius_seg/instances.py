"""What a prediction returns: instances of one image, their masks kept as run lengths.

Shapes: N instances, H and W of the original picture. Run-length masks are the compressed COCO form
(``{"size": [H, W], "counts": str}``); a mask of a 12-megapixel picture is a few kilobytes of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from mobius_seg.data.rle import decode_mask
from mobius_seg.errors import InputError

if TYPE_CHECKING:
    import supervision

    from mobius_seg.imageio import ImageInput
    from mobius_seg.receipt import Receipt


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Instances:
    """Instances of one image, best score first.

    Attributes:
        image_size: (H, W) of the original picture, after its EXIF orientation.
        rles: N compressed COCO masks in that size.
        boxes_xyxy: float32 [N, 4] in pixels of the original picture, inside it.
        scores: float32 [N] in 0..1.
        names: N names as they were given; "object" where none were.
        name_ids: int64 [N], position of the name in the prompt (first occurrence), 0 without names.
        instance_ids: int64 [N], 0 to N - 1 unless several names an instance were asked for: results
            of one number show one instance under different names.
        source: what was predicted on, for :meth:`plot`; a path stays a path.
        receipt: what finding them cost: layers run, queries kept, GMAC executed; None where the
            network was not asked (an empty list of names).
    """

    image_size: tuple[int, int]
    rles: list[dict[str, Any]]
    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    names: list[str]
    name_ids: NDArray[np.int64]
    instance_ids: NDArray[np.int64]
    source: "ImageInput | None" = None
    receipt: "Receipt | None" = None

    @classmethod
    def empty(cls, image_size: tuple[int, int], source: "ImageInput | None" = None) -> "Instances":
        """No instances in a picture of (H, W)."""
        return cls(
            image_size=image_size,
            rles=[],
            boxes_xyxy=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            names=[],
            name_ids=np.zeros(0, np.int64),
            instance_ids=np.zeros(0, np.int64),
            source=source,
        )

    def __repr__(self) -> str:
        """Size, and the best instances: ``Instances(3 in 400x600: cup 0.52, spoon 0.31, ...)``."""
        shown = [f"{self.names[i][:40]} {self.scores[i]:.2f}" for i in range(min(len(self), 5))]
        more = ["..."] if len(self) > 5 else []
        height, width = self.image_size
        words = f": {', '.join(shown + more)}" if shown else ""
        return f"Instances({len(self)} in {height}x{width}{words})"

    def __len__(self) -> int:
        """N."""
        return len(self.rles)

    def __getitem__(self, key: int | slice | Sequence[int] | NDArray[Any]) -> "Instances":
        """Some of the instances: an index, a slice, indices, or a bool [N] array."""
        index = np.atleast_1d(np.arange(len(self))[key])
        return Instances(
            image_size=self.image_size,
            rles=[self.rles[i] for i in index],
            boxes_xyxy=self.boxes_xyxy[index],
            scores=self.scores[index],
            names=[self.names[i] for i in index],
            name_ids=self.name_ids[index],
            instance_ids=self.instance_ids[index],
            source=self.source,
            receipt=self.receipt,
        )

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Bool [N, H, W], decoded anew each time: keep it if it is needed twice."""
        masks = np.zeros((len(self), *self.image_size), np.bool_)
        for i in range(len(self)):
            masks[i] = self.mask(i)
        return masks

    def mask(self, index: int) -> NDArray[np.bool_]:
        """Bool [H, W] of one instance, without decoding the others."""
        height, width = self.image_size
        return decode_mask(self.rles[index]["counts"].encode("ascii"), height, width)

    @property
    def areas(self) -> NDArray[np.int64]:
        """Mask areas [N] in pixels."""
        return np.array([coco_mask.area(rle) for rle in self.rles], np.int64).reshape(len(self))

    def to_coco(
        self, image_id: int = 0, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Entries of a COCO results file.

        Args:
            image_id: of the picture in the data set.
            category_ids: the data set's id of every name; by default 1 + position in the prompt.

        Returns:
            One JSON-ready dict an instance: image_id, category_id, name, score, bbox [x, y, w, h],
            segmentation (compressed RLE).

        Raises:
            InputError: ``category_ids`` lacks a name.
        """
        entries = []
        for i in range(len(self)):
            name = self.names[i]
            if category_ids is not None and name not in category_ids:
                raise InputError(f"category_ids has no id for the name {name!r}")
            category = category_ids[name] if category_ids is not None else self.name_ids[i] + 1
            entries.append(
                {
                    "image_id": int(image_id),
                    "category_id": int(category),
                    "name": name,
                    "score": round(float(self.scores[i]), 6),
                    "bbox": self.bbox(i),
                    "segmentation": self.rles[i],
                }
            )
        return entries

    def bbox(self, index: int) -> list[float]:
        """COCO box [x, y, width, height] of one instance, in pixels to two decimals."""
        x0, y0, x1, y1 = (float(value) for value in self.boxes_xyxy[index])
        return [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]

    def to_supervision(self) -> "supervision.Detections":
        """As ``supervision.Detections``, names under ``data["class_name"]``.

        Raises:
            InputError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise InputError(
                "to_supervision() needs the package supervision: pip install supervision"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes_xyxy.copy(),
            mask=self.masks,
            confidence=self.scores.copy(),
            class_id=self.name_ids.copy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def plot(
        self, image: "ImageInput | None" = None, path: str | Path | None = None
    ) -> Image.Image:
        """Draw masks, boxes, names and scores over the picture.

        Args:
            image: what to draw on; by default what was predicted on, read again if it was a path.
            path: also write the drawing there, whole or not at all.

        Returns:
            RGB picture of the original size.

        Raises:
            InputError: the picture is not of ``image_size``, cannot be read, or ``path`` cannot be
                written.
        """
        from mobius_seg.imageio import load_image
        from mobius_seg.viz import draw_instances, save_image

        source = image if image is not None else self.source
        if source is None:
            raise InputError("plot() needs the image: these instances do not know theirs")
        drawing = draw_instances(load_image(source), self)
        if path is not None:
            save_image(drawing, path)
        return drawing
