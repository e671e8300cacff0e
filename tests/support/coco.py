"""A COCO data set of a few rectangles on noise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("cup", "spoon")
SIZES = ((64, 64), (48, 64), (64, 40))


def write_rectangles(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Write three pictures with two rectangles each; returns the annotation file and the folder.

    Args:
        folder: made if it is not there.
        changes: keys of the file's object to replace.
    """
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i, (height, width) in enumerate(SIZES):
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        for j, (x, y, w, h) in enumerate(((4, 5, 20, 18), (22, 20, 15, 25))):
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            known = {"id": 2 * i + j, "image_id": i, "category_id": j, "iscrowd": 0}
            shape = {"bbox": [x, y, w, h], "area": w * h, "segmentation": [corners]}
            annotations.append(known | shape)
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    values = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "annotations.json"
    path.write_text(json.dumps(values | changes))
    return path, folder / "images"
