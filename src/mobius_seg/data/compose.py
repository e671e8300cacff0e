"""Composed COCO data sets: scenes written down once, with names, masks and expressions.

A scene depends on the pack, the split, the size, the seed and its number alone, so the same command
writes byte-identical annotations, and a longer set begins with the shorter one.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mobius_seg.data.pack import SPLITS, Pack
from mobius_seg.data.scenes import Scene, SceneComposer
from mobius_seg.errors import InputError

__all__ = ["COMPOSER_VERSION", "Scene", "SceneComposer", "scene_rng", "write_dataset"]

COMPOSER_VERSION = 1
"""Raised whenever equal arguments would give other scenes than before."""


def scene_rng(seed: int, index: int) -> np.random.Generator:
    """Generator of scene ``index`` of the set with ``seed``."""
    return np.random.default_rng([seed, index])


def write_dataset(
    pack_path: str | Path, split: str, count: int, size: int, seed: int, out: str | Path
) -> str:
    """Write a COCO instance data set of composed scenes, whole or not at all.

    The folder holds ``annotations.json``, ``expressions.json`` and ``images/*.png``. All names of
    the split's side are categories, whether they occur or not.

    Args:
        pack_path: pack file.
        split: "train", "calib", "val-base" or "val-novel".
        count: number of scenes.
        size: height and width in pixels.
        seed: whole number >= 0; scene i is drawn from (seed, i).
        out: folder to make; it may exist when it is empty.

    Returns:
        SHA-256 of ``annotations.json`` in hex.

    Raises:
        InputError: bad pack, unknown split, bad number, or ``out`` exists and is not empty.
    """
    out = Path(out).resolve()  # a link is followed: what is renamed at the end is the folder itself
    if count < 1:
        raise InputError(f"count {count}: must be at least 1")
    if seed < 0:
        raise InputError(f"seed {seed}: must be at least 0")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder")
    pack = Pack.open(pack_path)
    composer = SceneComposer(pack, split, size)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        digest = _write(beside, pack, composer, count, seed)
        beside.chmod(0o755)
        if out.exists():
            out.rmdir()
        beside.replace(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return digest


def _write(folder: Path, pack: Pack, composer: SceneComposer, count: int, seed: int) -> str:
    """Compose and write everything into ``folder``; digest of the annotations."""
    (folder / "images").mkdir()
    category = _categories(pack, composer.split)
    info = {
        "description": "scenes composed from cut-outs (composed, not photographed)",
        "composed": True,
        "composer_version": COMPOSER_VERSION,
        "pack_sha256": pack.digest,
        "split": composer.split,
        "count": count,
        "size": composer.size,
        "seed": seed,
    }
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    expressions: list[dict[str, Any]] = []
    for index in range(count):
        scene = composer.compose(scene_rng(seed, index), expressions=True)
        image_id, first_id = index + 1, len(annotations) + 1
        file_name = f"{image_id:06d}.png"
        height, width = scene.image.shape[:2]
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        annotations += _annotations(scene, image_id, first_id, category)
        expressions += [
            {
                "image_id": image_id,
                "annotation_id": first_id + expression.instance,
                "text": expression.text,
                "kind": expression.kind,
            }
            for expression in scene.expressions
        ]
        bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
        if not cv2.imwrite(str(folder / "images" / file_name), bgr):
            raise OSError(f"{folder / 'images' / file_name}: could not be written")
    categories = [
        {"id": i, "name": pack.names[n], "supercategory": "object"} for n, i in category.items()
    ]
    _dump(folder / "expressions.json", {"info": info, "expressions": expressions})
    return _dump(
        folder / "annotations.json",
        {
            "info": info,
            "images": images,
            "annotations": annotations,
            "categories": categories,
            "licenses": [],
        },
    )


def _categories(pack: Pack, split: str) -> dict[int, int]:
    """Row of a name -> category id (from 1), for all names of the split's side, in pack order."""
    _, side = SPLITS[split]
    rows = [row for row, name_side in enumerate(pack.name_split) if name_side == side]
    return {row: number for number, row in enumerate(rows, start=1)}


def _annotations(
    scene: Scene, image_id: int, first_id: int, category: dict[int, int]
) -> list[dict[str, Any]]:
    """COCO annotations of a scene, compressed RLE with ASCII counts."""
    encoded = coco_mask.encode(np.asfortranarray(scene.masks.transpose(1, 2, 0).astype(np.uint8)))
    found = []
    for number, (rle, name_id, mask, box) in enumerate(
        zip(encoded, scene.name_ids, scene.masks, scene.boxes_xyxy, strict=True)
    ):
        x0, y0, x1, y1 = (int(edge) for edge in box)
        found.append(
            {
                "id": first_id + number,
                "image_id": image_id,
                "category_id": category[int(name_id)],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": {
                    "size": [int(side) for side in rle["size"]],
                    "counts": rle["counts"].decode("ascii"),
                },
            }
        )
    return found


def _dump(path: Path, content: dict[str, Any]) -> str:
    """Write compact JSON; its SHA-256."""
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()
