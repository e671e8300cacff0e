"""What becomes of each object of the val sets: found and named, or lost, and to what.

Of the 100 best instances of a picture (one name each, all names of the split asked), an object is

* *right* where the best-scored instance that covers it (mask IoU of 0.5 or more) has its name,
* *misnamed* where that instance has another name,
* *badly outlined* where no instance covers it but one reaches an IoU of 0.1,
* *missed* otherwise.

*Doubled* counts further instances that cover an object that is covered already; *near name* those
of the misnamed whose given name says nearly the same (text cosine of 0.72 or more, the bound of
the split, or the same head noun: "coffee mug" for a coffee cup, "truck" for a semi truck).
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

import mobius_seg
from conditions import ROOT, conditions, store
from mobius_seg.data.coco import CocoData, picture_path, read_coco
from mobius_seg.data.names import head_noun
from mobius_seg.data.split import NEAR
from mobius_seg.text import default_encoder
from val_sets import COUNT, SEEDS, SIZE, val_set

COVERED, TOUCHED = 0.5, 0.1
AREAS = {"small": 32**2, "medium": 96**2, "large": float("inf")}
ENDS = ("right", "misnamed", "badly outlined", "missed")
BESIDE = ("near name", "doubled")
"""Counted beside these."""
_CONFUSIONS = 30


def main() -> None:
    """Measure and store ``results/errors_<model>.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobius-n", help="preset name or folder of weights")
    parser.add_argument("--pack", type=Path, default=ROOT / "assets" / "pack.safetensors")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "val")
    parser.add_argument("--limit", type=int, help="only the first pictures (a trial, not stored)")
    options = parser.parse_args()
    model = mobius_seg.load(options.model)
    splits, confused = {}, {}
    for split in SEEDS:
        found = val_set(split, options.pack, options.folder)
        coco = read_coco(found.annotations)
        splits[split], pairs = _breakdown(model, coco, found.images, options.limit)
        confused[split] = [[*pair, n] for pair, n in pairs.most_common(_CONFUSIONS)]
        print(split, splits[split], confused[split])
    if options.limit is not None:
        return
    facts = conditions(
        precision="float32",
        scenes=f"{COUNT} composed {SIZE}x{SIZE} scenes a split, seeds {SEEDS}",
        input_size=model.config.input_size,
    )
    store(
        f"errors_{Path(options.model).name}",
        {"conditions": facts, "splits": splits, "confusions": confused},
    )


def _breakdown(
    model: mobius_seg.Predictor, coco: CocoData, images: Path, limit: int | None
) -> tuple[dict[str, dict[str, Any]], Counter[tuple[str, str]]]:
    """Counts of each end by size of the object; (name, given name) of the misnamed."""
    ends = {size: Counter[str]() for size in AREAS}
    confused = Counter[tuple[str, str]]()
    near = _near(coco.names)
    for index, image in enumerate(coco.images[:limit]):
        found = model.predict(
            picture_path(image, images), names=list(coco.names), threshold=0.0, calibrated=False
        )
        rows = coco.by_image[index]
        truths = [coco.rle(row) for row in rows]
        if not truths:
            continue
        overlap_IM = np.zeros((0, len(rows)))
        if len(found):
            crowd = [0] * len(rows)
            overlap_IM = np.asarray(coco_mask.iou(list(found.rles), truths, crowd))
        for column, row in enumerate(rows):
            overlap_I = overlap_IM[:, column]
            area = float(coco_mask.area(truths[column]))
            size = next(name for name, most in AREAS.items() if area <= most)
            named = coco.names[coco.annotations[row].name]
            for end in _end(overlap_I, found, named):
                ends[size][end] += 1
                if end == "misnamed":
                    given = found.names[int(np.flatnonzero(overlap_I >= COVERED)[0])]
                    confused[named, given] += 1
                    ends[size]["near name"] += (named, given) in near
    return {size: dict(counts) for size, counts in ends.items()}, confused


def _near(names: Sequence[str]) -> set[tuple[str, str]]:
    """Pairs of names that say nearly the same."""
    vectors_KD = default_encoder().pooled(list(names))
    close_KK = (vectors_KD @ vectors_KD.T >= NEAR).tolist()
    nouns = [head_noun(name) for name in names]
    return {
        (one, other)
        for i, one in enumerate(names)
        for k, other in enumerate(names)
        if close_KK[i][k] or nouns[i] == nouns[k]
    }


def _end(overlap_I: Any, found: mobius_seg.Instances, named: str) -> list[str]:
    """What became of one object; instances are in the order of their scores."""
    covering = np.flatnonzero(overlap_I >= COVERED)
    if len(covering):
        first = "right" if found.names[int(covering[0])] == named else "misnamed"
        return [first, *["doubled"] * (len(covering) - 1)]
    return ["badly outlined" if (overlap_I >= TOUCHED).any() else "missed"]


if __name__ == "__main__":
    main()
