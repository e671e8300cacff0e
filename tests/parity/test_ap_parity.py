"""Our AP equals that of the COCO API run in the plain way, with either of its implementations."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mobius_seg.data.coco import read_coco
from mobius_seg.evaluate import ap

HEIGHT, WIDTH, IMAGES = 150, 210, 12
NAMES = {5: "cup", 17: "cat", 2: "spoon", 90: "fork"}


def blob(rng: np.random.Generator) -> np.ndarray:
    """A random ellipse."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    cy, cx = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH)
    ry, rx = np.exp(rng.uniform(np.log(4), np.log(90), 2))
    return ((ys - cy) / ry) ** 2 + ((xs - cx) / rx) ** 2 <= 1


def nudged(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    shift = rng.integers(-5, 6, 2)
    return np.roll(mask, tuple(shift), (0, 1))


def packed(mask: np.ndarray) -> dict[str, Any]:
    rle: dict[str, Any] = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def polygon(rng: np.random.Generator) -> list[list[float]]:
    """One or two random polygons, partly beyond the picture."""
    parts = []
    for _ in range(rng.integers(1, 3)):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
        centre = rng.uniform(0, (WIDTH, HEIGHT))
        points = centre + rng.uniform(5, 60) * np.stack([np.cos(angles), np.sin(angles)], 1)
        parts.append(points.ravel().tolist())
    return parts


def make(seed: int, *, ties: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth of masks, polygons and crowds, and results in the COCO API's form."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, IMAGES + 1):
        masks = []
        for _ in range(rng.integers(0, 7)):
            crowd = rng.random() < 0.1
            if rng.random() < 0.4 and not crowd:
                segmentation: Any = polygon(rng)
                rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH))
            else:
                segmentation = packed(blob(rng))
                rle = segmentation
            masks.append(coco_mask.decode(rle).astype(bool))
            annotations.append(
                {
                    "id": 100 + len(annotations),
                    "image_id": 11 * image,
                    "category_id": int(rng.choice(list(NAMES)[:3])),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "area": float(coco_mask.area(rle)),
                    "iscrowd": int(crowd),
                    "segmentation": segmentation,
                }
            )
        for _ in range(rng.integers(0, 30)):
            near = masks and rng.random() < 0.75
            mask = nudged(rng, masks[rng.integers(len(masks))]) if near else blob(rng)
            box = coco_mask.toBbox(packed(mask)) + rng.normal(0, 1, 4) * (rng.random() < 0.5)
            results.append(
                {
                    "image_id": 11 * image,
                    "category_id": int(rng.choice(list(NAMES))),
                    "score": float(
                        np.float32(0.5 if ties and rng.random() < 0.5 else rng.random())
                    ),
                    "bbox": [*box[:2].tolist(), *np.abs(box[2:]).tolist()],
                    "segmentation": packed(mask),
                }
            )
    images = [
        {"id": 11 * i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH}
        for i in range(1, IMAGES + 1)
    ]
    categories = [{"id": i, "name": name} for i, name in NAMES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def plain(path: Path, results: list[dict[str, Any]], kind: str, agnostic: bool) -> np.ndarray:
    """The twelve figures of pycocotools, used as its own demonstration does."""
    keep = "segmentation" if kind == "segm" else "bbox"
    trimmed = [{k: r[k] for k in ("image_id", "category_id", "score", keep)} for r in results]
    coco = COCO(str(path))
    judge = COCOeval(coco, coco.loadRes(trimmed), kind)
    judge.params.useCats = int(not agnostic)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    stats: np.ndarray = judge.stats
    return stats


def ours(path: Path, results: list[dict[str, Any]]) -> ap.Metrics:
    coco = read_coco(path)
    scorer = ap.ApScorer(coco, range(len(coco.images)))
    for row, image in enumerate(coco.images):
        mine = [r for r in results if r["image_id"] == image.id]
        boxes = np.array([r["bbox"] for r in mine]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scorer.add(
            row,
            [r["segmentation"] for r in mine],
            boxes,
            np.array([r["score"] for r in mine], np.float32),
            [NAMES[r["category_id"]] for r in mine],
        )
    return scorer.named() | scorer.agnostic()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("engine", ["faster-coco-eval", "pycocotools"])
def test_equal_to_plain_pycocotools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, seed: int
) -> None:
    if engine == "pycocotools":
        monkeypatch.setattr(ap, "engine", lambda: (COCO, COCOeval, "pycocotools"))
    else:
        pytest.importorskip("faster_coco_eval")
        assert ap.engine()[2] == f"faster-coco-eval {version('faster-coco-eval')}"
    ties = seed == 2
    data, results = make(seed, ties=ties)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(data))
    figures = ours(path, results)
    order = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    for prefix, kind, agnostic in (
        ("mask_", "segm", False),
        ("box_", "bbox", False),
        ("agnostic_mask_", "segm", True),
        ("agnostic_box_", "bbox", True),
    ):
        if ties and agnostic:  # the reference orders equal scores by category, which means nothing
            continue
        expected = plain(path, results, kind, agnostic)
        assert 0.005 < expected[0] < 0.98
        for i, name in enumerate(order):
            value = figures[prefix + name]
            assert (-1 if value is None else value) == pytest.approx(expected[i], abs=1e-6)
        recall = "agnostic_ar100" if prefix == "agnostic_mask_" else f"{prefix}ar100"
        assert figures[recall] == pytest.approx(expected[8], abs=1e-6)


def test_masks_equal_those_of_the_coco_api(tmp_path: Path) -> None:
    data, _ = make(7, ties=False)
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(data))
    coco, reference = read_coco(path), COCO(str(path))
    for index, annotation in enumerate(coco.annotations):
        mask = coco.mask(index)
        assert mask is not None
        assert (mask == reference.annToMask(reference.anns[annotation.id])).all()


def test_without_the_extra_pycocotools_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval", None)
    assert ap.engine() == (COCO, COCOeval, f"pycocotools {version('pycocotools')}")
