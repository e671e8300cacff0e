"""Matching queries with ground truth: what gets which quality, and what does not count."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.models import HashEncoder

from mobius_seg.data.coco import read_coco
from mobius_seg.evaluate.calibrate import error_report, fit
from mobius_seg.evaluate.stage_scores import StageScores, collect, greedy
from mobius_seg.presets import get_preset
from mobius_seg.types import LayerOutput, ModelOutput, TextPrompt

SIDE = 64
CONFIG = dataclasses.replace(get_preset("mobius-test"), nms_iou=1.0, mask_margin=0.0)
CUP, SPOON, CAT = 0, 1, 2
Box = tuple[int, int, int, int]


def write_set(folder: Path, objects: list[dict[str, Any]], **image: Any) -> Path:
    """One picture of 64 x 64 with rectangles (x, y, w, h)."""
    Image.new("RGB", (SIDE, SIDE)).save(folder / "0.png")
    annotations = []
    for i, entry in enumerate(objects):
        x, y, w, h = entry["box"]
        shape = {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
        if entry.get("crowd"):
            runs = np.zeros((SIDE, SIDE), np.uint8)
            runs[y : y + h, x : x + w] = 1
            edges = np.flatnonzero(np.diff(runs.ravel(order="F"), prepend=0, append=0))
            counts = np.diff(np.concatenate([[0], edges, [SIDE * SIDE]])).tolist()
            shape = {"segmentation": {"size": [SIDE, SIDE], "counts": counts}}
        elif entry.get("box_only"):
            shape = {}
        annotations.append(
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": entry["name"] + 1,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": int(bool(entry.get("crowd"))),
                **shape,
            }
        )
    data = {
        "images": [{"id": 1, "file_name": "0.png", "height": SIDE, "width": SIDE, **image}],
        "annotations": annotations,
        "categories": [
            {"id": i + 1, "name": name} for i, name in enumerate(("cup", "spoon", "cat"))
        ],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(data))
    return path


def stage(queries: list[tuple[Box | None, int, float]]) -> tuple[LayerOutput, torch.Tensor]:
    """Queries as (rectangle or None, name, logit), their masks as features of their own."""
    logits = torch.full((1, len(queries), 3), -9.0)
    boxes, features = torch.zeros(1, len(queries), 4), torch.full((len(queries), 16, 16), -1.0)
    for q, (box, name, logit) in enumerate(queries):
        logits[0, q, name] = logit
        if box is not None:
            x, y, w, h = (value / SIDE for value in box)
            boxes[0, q] = torch.tensor([x + w / 2, y + h / 2, w, h])
            at = (torch.arange(16) + 0.5) / 16
            inside = ((at > y) & (at < y + h))[:, None] & ((at > x) & (at < x + w))
            features[q][inside] = 1.0
    objects = torch.tensor([[logit for _, _, logit in queries]])
    return LayerOutput(logits, objects, boxes, torch.eye(len(queries))[None]), features[None]


def collected(
    folder: Path,
    objects: list[dict[str, Any]],
    queries: Any,
    named: bool = True,
    nms_iou: float = 1.0,
    **image: Any,
) -> StageScores:
    layer, features = stage(queries)
    output = ModelOutput([layer, layer], features, torch.zeros(1, 3, 4))
    predictor: Any = SimpleNamespace(
        config=dataclasses.replace(CONFIG, nms_iou=nms_iou),
        device=torch.device("cpu"),
        text_encoder=HashEncoder(),
        network=lambda images, prompt: output,
    )
    coco = read_coco(write_set(folder, objects, **image))
    return collect(predictor, coco, folder, [0], named=named)


CUP_HERE = {"box": (8, 8, 32, 32), "name": CUP}


def test_quality_is_that_of_the_best_free_object_of_the_name(tmp_path: Path) -> None:
    queries = [
        ((8, 8, 32, 16), CUP, 0.0),  # half of the cup, but less sure than the next one
        ((8, 8, 32, 32), CUP, 2.0),
        ((8, 8, 32, 32), SPOON, 3.0),  # another name
        ((48, 48, 16, 16), CAT, 1.0),
        ((48, 48, 8, 16), CAT, 2.0),  # half of the cat, but more sure than the one above
    ]
    objects = [CUP_HERE, {"box": (48, 48, 16, 16), "name": CAT}]
    found = collected(tmp_path, objects, queries)
    assert found.confidence.shape == (2, 5)
    assert found.objects == 2
    assert found.images == 1
    sure = torch.tensor([0.0, 2.0, 3.0, 1.0, 2.0]).sigmoid()
    np.testing.assert_allclose(found.confidence[0], sure, atol=1e-6)
    half = 0.5
    np.testing.assert_allclose(found.quality[0], [0, 1, 0, 0, half], atol=0.06)
    assert found.hits[1].tolist() == [False, True, False, True, False]
    assert found.counts.all()
    assert found.names[0].tolist() == [CUP, CUP, SPOON, CAT, CAT]


def test_quality_is_the_geometric_mean_of_box_and_mask(tmp_path: Path) -> None:
    layer, features = stage([((8, 8, 32, 32), CUP, 0.0)])
    layer.boxes_BQ4[0, 0] = torch.tensor([24, 16, 32, 16]) / SIDE  # the box covers half of it
    output = ModelOutput([layer], features, torch.zeros(1, 3, 4))
    predictor: Any = SimpleNamespace(
        config=CONFIG,
        device=torch.device("cpu"),
        text_encoder=HashEncoder(),
        network=lambda images, prompt: output,
    )
    coco = read_coco(write_set(tmp_path, [CUP_HERE]))
    found = collect(predictor, coco, tmp_path, [0], named=True)
    assert found.quality[0, 0] == pytest.approx(0.5**0.5, abs=0.02)
    assert found.hits[0, 0]  # by the mask


def test_each_picture_is_asked_for_its_own_names_and_some_others(tmp_path: Path) -> None:
    layer, features = stage([((8, 8, 32, 32), 0, 0.0)])
    output = ModelOutput([layer], features, torch.zeros(1, 3, 4))
    columns: list[int] = []

    def network(images: torch.Tensor, prompt: TextPrompt) -> ModelOutput:
        columns.append(prompt.pooled_BKD.shape[1])
        return output

    predictor: Any = SimpleNamespace(
        config=CONFIG, device=torch.device("cpu"), text_encoder=HashEncoder(), network=network
    )
    coco = read_coco(write_set(tmp_path, [CUP_HERE | {"name": CAT}]))
    for asked in (1, 2, 99, None):
        collect(predictor, coco, tmp_path, [0], named=True, asked=asked)
    assert columns == [1, 2, len(coco.names), len(coco.names)]
    only = collect(predictor, coco, tmp_path, [0], named=True, asked=1)
    assert only.names[0, 0] == CAT  # the first column of this prompt, not of the file
    assert only.quality[0, 0] == pytest.approx(1, abs=0.02)


def test_without_names_everything_is_one_name(tmp_path: Path) -> None:
    found = collected(tmp_path, [CUP_HERE], [((8, 8, 32, 32), CAT, 1.0)], named=False)
    assert found.quality[0, 0] == pytest.approx(1, abs=0.02)
    assert found.names.tolist() == [[0], [0]]


def test_an_object_without_a_mask_is_judged_by_its_box(tmp_path: Path) -> None:
    found = collected(tmp_path, [CUP_HERE | {"box_only": True}], [((8, 8, 32, 20), CUP, 1.0)])
    assert found.quality[0, 0] == pytest.approx(20 / 32, abs=1e-3)


def test_what_does_not_count(tmp_path: Path) -> None:
    queries = [
        (None, CUP, 3.0),  # no mask
        ((8, 8, 32, 32), CUP, 1.0),
        ((44, 44, 8, 8), SPOON, 1.0),  # in the crowd
        ((44, 44, 8, 8), CUP, 0.5),  # in a crowd of another name
    ]
    crowd = {"box": (40, 40, 24, 24), "name": SPOON, "crowd": True}
    found = collected(tmp_path, [CUP_HERE, crowd], queries)
    assert found.counts[0].tolist() == [False, True, False, True]
    assert found.quality[0].round(1).tolist() == [0, 1, 0, 0]
    assert found.objects == 1


def test_names_that_the_file_does_not_know_about_do_not_count(tmp_path: Path) -> None:
    queries = [
        ((8, 8, 32, 32), CUP, 1.0),
        ((8, 8, 32, 32), SPOON, 1.0),
        ((8, 8, 32, 32), CAT, 1.0),
    ]
    found = collected(tmp_path, [CUP_HERE], queries, neg_category_ids=[SPOON + 1])
    assert found.counts[0].tolist() == [True, True, False]


def test_a_duplicate_counts_no_more_than_predict_returns_it(tmp_path: Path) -> None:
    queries = [
        ((8, 8, 32, 32), SPOON, 1.0),  # the same mask as the next one's, less sure
        ((8, 8, 32, 32), CUP, 2.0),
        ((40, 40, 16, 16), CUP, 0.0),
        ((8, 8, 32, 16), CUP, 0.0),  # half of the mask: no duplicate
    ]
    objects = [CUP_HERE, CUP_HERE | {"name": SPOON}]
    found = collected(tmp_path, objects, queries, nms_iou=0.8)
    assert found.counts.tolist() == [[False, True, True, True]] * 2
    assert found.quality[0].round(1).tolist() == [0, 1, 0, 0]
    assert not found.hits[0, 0]
    assert collected(tmp_path, objects, queries).counts.all()


def test_a_picture_without_objects(tmp_path: Path) -> None:
    found = collected(tmp_path, [], [((8, 8, 32, 32), CUP, 1.0)])
    assert found.quality.tolist() == [[0], [0]]
    assert found.counts.all()


def test_greedy_takes_each_object_once() -> None:
    worth = np.array([[0.9, 0.8], [0.95, 0.6], [0.3, 0.2]])
    assert greedy(worth, np.array([0, 1, 2]), 0.0) == {0: 0.9, 1: 0.6}
    assert greedy(worth, np.array([0, 1, 2]), 0.7) == {0: 0.9}
    assert greedy(worth[:, :0], np.array([0, 1, 2]), 0.0) == {}


def synthetic(seed: int) -> StageScores:
    """Two stages of 5,000 queries whose quality is on average the confidence's square."""
    rng = np.random.default_rng(seed)
    confidence = rng.random((2, 5000)).astype(np.float32).astype(np.float64)
    quality = np.clip(confidence**2 * rng.uniform(0.5, 1.5, (2, 5000)), 0, 1)
    quality[0] = rng.random(5000)  # stage 0 says nothing about the last one
    return StageScores(
        confidence=confidence,
        quality=quality,
        hits=quality > 0.5,
        counts=rng.random((2, 5000)) < 0.9,
        names=np.zeros((2, 5000), np.int64),
        objects=3000,
        images=50,
    )


def test_report_judges_the_same_detections_raw_and_mapped() -> None:
    maps, table = fit(synthetic(0))
    report = error_report(synthetic(1), maps)
    last = report["stages"][-1]
    assert report["middle_stage"] == 0
    assert last["raw"]["laece0"] > 0.1
    assert last["mapped"]["laece0"] < 0.03
    assert last["rank_correlation"] > 0.9
    assert abs(report["stages"][0]["rank_correlation"]) < 0.05
    assert error_report(synthetic(1), None)["stages"][-1]["mapped"] is None
    assert json.loads(json.dumps(report)) == report
    fresh = synthetic(1)
    precision = fresh.hits[1][(fresh.confidence[1] ** 2 >= 0.5) & fresh.counts[1]].mean()
    assert table.expected_precision(0.5) == pytest.approx(precision, abs=0.05)
