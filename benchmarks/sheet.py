"""Pictures for the documentation: twelve val scenes, the demo overlays, the learning curve.

The scenes are taken at even distances, not chosen: six of val-base, six of val-novel. Each pair
shows the truth on the left and the prediction (all names of the split, the usual threshold) on the
right. The demo overlays are those that ``make demo`` wrote.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

import mobius_seg
from conditions import ROOT
from mobius_seg.checkpoint import SHIPPED
from mobius_seg.data.coco import CocoData, picture_path, read_coco
from mobius_seg.files import atomic_path
from mobius_seg.imageio import load_image
from mobius_seg.train.curve import draw_curve
from mobius_seg.viz import draw_instances
from tables import json_file
from val_sets import SEEDS, ValSet, val_set

PER_SPLIT = 6
COLUMNS = 3
SIDE = 360
ENLARGE = 2
GAP = 6
DEMO = ("chelsea.png", "coffee.png")


def main() -> None:
    """Write ``val_sheet.jpg``, ``demo.jpg`` and the learning curve into ``docs``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobius-n")
    parser.add_argument("--pack", type=Path, default=ROOT / "assets" / "pack.safetensors")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "val")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--demo", type=Path, default=ROOT / "demo")
    arguments = parser.parse_args()
    model = mobius_seg.load(arguments.model)
    pairs = []
    for split in SEEDS:
        pairs += _pairs(model, val_set(split, arguments.pack, arguments.folder))
    save_grid(pairs, COLUMNS, arguments.out / "val_sheet.jpg")
    training = json_file(SHIPPED / Path(arguments.model).name / "training.json")
    draw_curve(training.get("curve", []), arguments.out / f"curve_{Path(arguments.model).name}.png")
    overlays = [arguments.demo / name for name in DEMO]
    if all(path.exists() for path in overlays):
        save(row_of([_open(path) for path in overlays], 400), arguments.out / "demo.jpg")
    else:
        print("no demo overlays; run `make demo` first")


def _pairs(model: mobius_seg.Predictor, scenes: ValSet) -> list[Image.Image]:
    """Truth and prediction of some scenes, side by side."""
    coco = read_coco(scenes.annotations)
    step = len(coco.images) // PER_SPLIT
    return [
        truth_and_prediction(model, coco, index, scenes.images)
        for index in range(0, PER_SPLIT * step, step)
    ]


def truth_and_prediction(
    model: mobius_seg.Predictor, coco: CocoData, index: int, images: Path
) -> Image.Image:
    """Truth (left) and prediction of one scene at the usual threshold, enlarged."""
    path = picture_path(coco.images[index], images)
    picture = load_image(path)
    rows = coco.by_image[index]
    annotations = [coco.annotations[row] for row in rows]
    boxes = np.array([a.bbox for a in annotations], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    truth = mobius_seg.Instances(
        image_size=picture.shape[:2],
        rles=[_text_rle(coco.rle(row)) for row in rows],
        boxes_xyxy=boxes,
        scores=np.ones(len(rows), np.float32),
        names=[coco.names[a.name] for a in annotations],
        name_ids=np.array([a.name for a in annotations], np.int64),
        instance_ids=np.arange(len(rows)),
    )
    predicted = model.predict(path, names=list(coco.names))
    large = np.repeat(np.repeat(picture, ENLARGE, 0), ENLARGE, 1)
    both = [draw_instances(large, _enlarge(found)) for found in (truth, predicted)]
    return row_of(both, SIDE)


def _enlarge(found: mobius_seg.Instances) -> mobius_seg.Instances:
    """The same instances in a larger picture, so that labels cover less of it."""
    masks = np.repeat(np.repeat(found.masks, ENLARGE, 1), ENLARGE, 2)
    encoded = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    height, width = found.image_size
    return dataclasses.replace(
        found,
        image_size=(ENLARGE * height, ENLARGE * width),
        rles=[_text_rle(rle) for rle in encoded],
        boxes_xyxy=found.boxes_xyxy * ENLARGE,
    )


def _text_rle(rle: dict[str, object] | None) -> dict[str, object]:
    """COCO run lengths with their counts as text."""
    assert rle is not None, "composed scenes have masks"
    counts = rle["counts"]
    return {**rle, "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def row_of(pictures: Sequence[Image.Image], height: int) -> Image.Image:
    """Pictures side by side at one height."""
    scaled = [p.resize((round(p.width * height / p.height), height)) for p in pictures]
    width = sum(p.width for p in scaled) + GAP * (len(scaled) - 1)
    canvas = Image.new("RGB", (width, height), "white")
    x = 0
    for picture in scaled:
        canvas.paste(picture, (x, 0))
        x += picture.width + GAP
    return canvas


def save_grid(pictures: Sequence[Image.Image], columns: int, path: Path) -> None:
    """Pictures of one size in rows, as one file."""
    width, height = pictures[0].width + 4 * GAP, pictures[0].height + 2 * GAP
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * width, rows * height), "white")
    for index, picture in enumerate(pictures):
        canvas.paste(picture, (index % columns * width, index // columns * height))
    save(canvas, path)


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def save(image: Image.Image, path: Path) -> None:
    """Write a JPEG file, whole or not at all."""
    with atomic_path(path) as temporary:
        image.save(temporary, "JPEG", quality=85)
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
