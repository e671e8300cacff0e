"""Two more pictures for the documentation: photographs, and the scenes where most goes wrong.

``photo_sheet.jpg``: the photographs of the dev half whose licence lets them be shown again (MIT,
CC0, public domain, CC-BY), all 52 names asked, the six best instances from a low threshold on.
``failures_sheet.jpg``: of the first hundred val-base scenes those six in which the largest share of
the objects is not found under its name (truth left, prediction right). Not chosen by hand.
Those of another model than the default have its name in theirs.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

import mobius_seg
from conditions import ROOT
from mobius_seg.data.coco import CocoData, picture_path, read_coco
from mobius_seg.imageio import load_image
from mobius_seg.viz import draw_instances
from run_errors import COVERED
from sheet import COLUMNS, PER_SPLIT, row_of, save, save_grid, truth_and_prediction
from tables import json_file
from val_sets import val_set

PHOTOS = ROOT / "benchmarks" / "photos" / "dev.json"
SHOWN = ("MIT", "CC0", "public-domain", "CC-BY-1", "CC-BY-2", "CC-BY-3", "CC-BY-4")
PHOTO_HEIGHT, PHOTOS_A_ROW = 240, 4
PHOTO_THRESHOLD, PHOTO_INSTANCES = 0.02, 6
SCENES = 100
LEAST = 4
"""Objects that a scene needs to be among the failures; one of one lost says little."""


def main() -> None:
    """Write ``photo_sheet.jpg`` and ``failures_sheet.jpg`` into ``docs``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobius-n")
    parser.add_argument("--pack", type=Path, default=ROOT / "assets" / "pack.safetensors")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "val")
    parser.add_argument("--photos", type=Path, default=ROOT / "runs" / "photos")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    model, own = mobius_seg.load(options.model), Path(options.model).name
    more = "" if own == parser.get_default("model") else f"_{own}"
    save(_photographs(model, options.photos), options.out / f"photo_sheet{more}.jpg")
    scenes = val_set("val-base", options.pack, options.folder)
    coco = read_coco(scenes.annotations)
    worst = sorted(range(SCENES), key=lambda i: _right(model, coco, i, scenes.images))[:PER_SPLIT]
    pairs = [truth_and_prediction(model, coco, index, scenes.images) for index in sorted(worst)]
    save_grid(pairs, COLUMNS - 1, options.out / f"failures_sheet{more}.jpg")


def _photographs(model: mobius_seg.Predictor, folder: Path) -> Image.Image:
    """The photographs that may be shown, with what was found in them."""
    stored = json_file(PHOTOS)
    names = [category["name"] for category in stored["categories"]]
    drawn = []
    for image in stored["images"]:
        if not image["licence"].startswith(SHOWN):
            continue
        path = folder / image["file_name"]
        found = model.predict(path, names=names, threshold=PHOTO_THRESHOLD)
        best = found[: min(len(found), PHOTO_INSTANCES)]
        drawn.append(draw_instances(load_image(path), best))
    rows = [
        row_of(drawn[start : start + PHOTOS_A_ROW], PHOTO_HEIGHT)
        for start in range(0, len(drawn), PHOTOS_A_ROW)
    ]
    canvas = Image.new("RGB", (max(r.width for r in rows), PHOTO_HEIGHT * len(rows)), "white")
    for number, row in enumerate(rows):
        canvas.paste(row, (0, number * PHOTO_HEIGHT))
    return canvas


def _right(model: mobius_seg.Predictor, coco: CocoData, index: int, images: Path) -> float:
    """Share of a scene's objects that an instance of their name covers; 1 for few objects."""
    rows = coco.by_image[index]
    if len(rows) < LEAST:
        return 1.0
    found = model.predict(picture_path(coco.images[index], images), names=list(coco.names))
    if not len(found):
        return 0.0
    truths = [coco.rle(row) for row in rows]
    overlap_IM = np.asarray(coco_mask.iou(list(found.rles), truths, [0] * len(rows)))
    right = 0
    for column, row in enumerate(rows):
        name = coco.names[coco.annotations[row].name]
        mine = [i for i, given in enumerate(found.names) if given == name]
        right += bool(len(mine) and overlap_IM[mine, column].max() >= COVERED)
    return right / len(rows)


if __name__ == "__main__":
    main()
