"""AP of hand-made cases whose figures follow from COCO's definitions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mobius_seg.data.coco import CocoData, read_coco
from mobius_seg.evaluate.ap import MAX_DETECTIONS, ApScorer

SIDE = 200
Box = tuple[int, int, int, int]  # x, y, width, height
Detection = tuple[int, Box, float, str]  # image, box, score, name


def rle(box: Box) -> dict[str, Any]:
    x, y, w, h = box
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    packed: dict[str, Any] = coco_mask.encode(mask)
    return packed


def truth(
    folder: Path, instances: Sequence[tuple[int, Box, str]], *, crowds: Sequence[int] = ()
) -> CocoData:
    """A data set of two pictures with rectangles; annotation ids start at 0."""
    names = ["cup", "spoon", "cat"]
    data = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE} for i in (0, 9)
        ],
        "categories": [{"id": 10 * i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {
                "id": i,
                "image_id": (0, 9)[image],
                "category_id": 10 * names.index(name),
                "bbox": list(box),
                "segmentation": {**rle(box), "counts": rle(box)["counts"].decode()},
                "iscrowd": int(i in crowds),
            }
            for i, (image, box, name) in enumerate(instances)
        ],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(data))
    return read_coco(path)


def score(coco: CocoData, detections: Sequence[Detection]) -> dict[str, float | None]:
    scorer = ApScorer(coco, range(2))
    for image in range(2):
        mine = [d for d in detections if d[0] == image]
        boxes = np.array([[x, y, x + w, y + h] for _, (x, y, w, h), _, _ in mine], np.float32)
        scorer.add(
            image,
            [rle(box) for _, box, _, _ in mine],
            boxes.reshape(-1, 4),
            np.array([s for _, _, s, _ in mine], np.float32),
            [name for _, _, _, name in mine],
        )
    return scorer.named() | scorer.agnostic()


A, B, C = (10, 10, 40, 40), (100, 20, 60, 50), (20, 120, 10, 10)


def test_perfect_predictions_are_one(tmp_path: Path) -> None:
    instances = [(0, A, "cup"), (0, B, "spoon"), (1, C, "cup"), (1, B, "cat")]
    coco = truth(tmp_path, instances)
    figures = score(coco, [(i, box, 0.5 + i / 10, name) for i, box, name in instances])
    for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium"):
        for kind in ("mask_", "box_", "agnostic_mask_", "agnostic_box_"):
            assert figures[kind + name] == pytest.approx(1.0)
    assert figures["mask_ar100"] == figures["agnostic_ar100"] == pytest.approx(1.0)
    assert figures["mask_ap_large"] is None


def test_wrong_names_count_for_named_ap_alone(tmp_path: Path) -> None:
    coco = truth(tmp_path, [(0, A, "cup"), (1, B, "spoon")])
    figures = score(coco, [(0, A, 0.9, "spoon"), (1, B, 0.8, "cup")])
    assert figures["mask_ap"] == figures["box_ap"] == 0.0
    assert figures["agnostic_mask_ap"] == figures["agnostic_ar100"] == pytest.approx(1.0)


def test_a_better_scored_miss_halves_the_precision(tmp_path: Path) -> None:
    coco = truth(tmp_path, [(0, A, "cup")])
    figures = score(coco, [(0, B, 0.9, "cup"), (0, A, 0.8, "cup")])
    assert figures["mask_ap"] == figures["box_ap"] == pytest.approx(0.5)
    figures = score(coco, [(0, B, 0.7, "cup"), (0, A, 0.8, "cup")])
    assert figures["mask_ap"] == figures["box_ap"] == pytest.approx(1.0)


def test_a_shifted_mask_passes_the_thresholds_below_its_iou(tmp_path: Path) -> None:
    coco = truth(tmp_path, [(0, A, "cup")])
    # 40 x 40 moved by 8: 32 x 40 of 48 x 40, IoU 2/3: hit at 0.50, 0.55, 0.60, 0.65 of ten.
    figures = score(coco, [(0, (18, 10, 40, 40), 0.9, "cup")])
    for kind in ("mask_", "box_", "agnostic_mask_"):
        assert figures[f"{kind}ap"] == pytest.approx(0.4)
        assert figures[f"{kind}ap50"] == pytest.approx(1.0)
        assert figures[f"{kind}ap75"] == 0.0
    assert figures["agnostic_ar100"] == pytest.approx(0.4)


def test_half_found_is_the_recall_points_up_to_one_half(tmp_path: Path) -> None:
    coco = truth(tmp_path, [(0, A, "cup"), (1, B, "cup")])
    figures = score(coco, [(0, A, 0.9, "cup")])
    assert figures["mask_ap"] == pytest.approx(51 / 101)  # recall 0.00, 0.01 ... 0.50 of 101 points
    assert figures["mask_ar100"] == pytest.approx(0.5)


def test_names_average_over_those_with_instances(tmp_path: Path) -> None:
    coco = truth(tmp_path, [(0, A, "cup"), (1, B, "spoon")])
    figures = score(coco, [(0, A, 0.9, "cup"), (0, B, 0.9, "cat")])
    assert figures["mask_ap"] == pytest.approx(0.5)


def test_crowds_neither_count_nor_hurt(tmp_path: Path) -> None:
    coco = truth(tmp_path, [(0, A, "cup"), (0, (100, 100, 90, 90), "cup")], crowds=[1])
    inside = [(0, (100 + 9 * i, 110, 8, 8), 0.95, "cup") for i in range(9)]
    figures = score(coco, [(0, A, 0.9, "cup"), *inside])
    assert figures["mask_ap"] == figures["agnostic_mask_ap"] == pytest.approx(1.0)


@pytest.mark.parametrize("crowds", [[], [0]])
def test_nothing_to_find_is_undefined(tmp_path: Path, crowds: list[int]) -> None:
    coco = truth(tmp_path, [(0, A, "cup")] if crowds else [], crowds=crowds)
    figures = score(coco, [(0, A, 0.9, "cup")])
    assert set(figures.values()) == {None}
    json.dumps(figures, allow_nan=False)


def test_no_predictions_are_zero(tmp_path: Path) -> None:
    figures = score(truth(tmp_path, [(0, A, "cup")]), [])
    assert figures["mask_ap"] == figures["box_ap"] == figures["agnostic_ar100"] == 0.0


def test_boxes_alone_leave_mask_figures_undefined(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    truth(tmp_path, [(0, A, "cup")])
    data = json.loads(path.read_text())
    del data["annotations"][0]["segmentation"]
    path.write_text(json.dumps(data))
    figures = score(read_coco(path), [(0, A, 0.9, "cup")])
    assert figures["box_ap"] == figures["agnostic_box_ap"] == pytest.approx(1.0)
    assert figures["mask_ap"] is figures["agnostic_mask_ap"] is figures["agnostic_ar100"] is None


def test_only_the_hundred_best_of_a_picture_count(tmp_path: Path) -> None:
    coco = truth(tmp_path, [(0, A, "cup"), (1, A, "cup")])
    better = [(0, C, 0.9, "spoon")] * MAX_DETECTIONS
    figures = score(coco, [*better, (0, A, 0.1, "cup"), (1, A, 0.1, "cup")])
    assert figures["mask_ap"] == pytest.approx(51 / 101)


def test_size_of_a_prediction_is_that_of_its_mask(tmp_path: Path) -> None:
    coco = truth(tmp_path, [(0, C, "cup")])  # 10 x 10: small
    scorer = ApScorer(coco, range(2))
    boxes = np.array([[0, 0, 150, 150], [20, 120, 30, 130]], np.float32)
    # A miss of better score: small by its mask, though large by its box.
    masks = [rle((0, 0, 9, 9)), rle(C)]
    scorer.add(0, masks, boxes, np.array([0.9, 0.8], np.float32), ["cup", "cup"])
    figures = scorer.named()
    assert figures["mask_ap_small"] == pytest.approx(0.5)
    assert figures["box_ap_small"] == pytest.approx(1.0)


def test_an_instance_may_stand_under_several_names(tmp_path: Path) -> None:
    """Wrong first, right second: named it counts as such, with names ignored it is found once."""
    coco = truth(tmp_path, [(0, A, "cup"), (1, B, "spoon")])
    scorer = ApScorer(coco, range(2))
    for image, box, names in ((0, A, ["spoon", "cup"]), (1, B, ["cup", "spoon"])):
        x, y, w, h = box
        boxes = np.array([[x, y, x + w, y + h]] * 2, np.float32)
        scores = np.array([0.9, 0.8], np.float32)
        scorer.add(image, [rle(box)] * 2, boxes, scores, names, np.zeros(2, np.int64))
    assert scorer.named()["mask_ap"] == pytest.approx(0.5)  # each after a miss of better score
    assert scorer.agnostic()["agnostic_mask_ap"] == pytest.approx(1.0)


def test_pictures_left_out_do_not_count(tmp_path: Path) -> None:
    coco = truth(tmp_path, [(0, A, "cup"), (1, B, "cup")])
    scorer = ApScorer(coco, [0])
    boxes = np.array([[10, 10, 50, 50]], np.float32)
    scorer.add(0, [rle(A)], boxes, np.array([0.3], np.float32), None)
    assert scorer.agnostic()["agnostic_mask_ap"] == pytest.approx(1.0)


def test_scores_that_are_not_finite_are_our_bug(tmp_path: Path) -> None:
    scorer = ApScorer(truth(tmp_path, [(0, A, "cup")]), [0])
    boxes = np.zeros((1, 4), np.float32)
    with pytest.raises(AssertionError):
        scorer.add(0, [rle(A)], boxes, np.array([np.nan], np.float32), ["cup"])


def test_without_an_image_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    coco = truth(tmp_path, [(0, A, "cup"), (0, B, "spoon"), (1, C, "cup"), (1, B, "cat")])
    scorers = {images: ApScorer(coco, images) for images in ((0, 1), (0,), (1,))}
    for image, box, name in ((0, A, "cup"), (0, C, "cat"), (1, B, "cat"), (1, A, "spoon")):
        for images, scorer in scorers.items():
            if image in images:
                xyxy = np.array([[box[0], box[1], box[0] + box[2], box[1] + box[3]]], np.float32)
                scorer.add(image, [rle(box)], xyxy, np.float32([0.5 + image / 10]), [name])
    both = scorers[0, 1]
    for left, gone in ((0, 1), (1, 0)):
        rest, alone = both.without([gone]), scorers[left,]
        assert rest.named() == alone.named()
        assert rest.agnostic() == alone.agnostic()
    assert both.without([0]).named() != both.named()
    figures = both.named(boxes=False) | both.agnostic(boxes=False)
    assert figures["mask_ap"] == both.named()["mask_ap"]
    assert figures["box_ap"] is None
    assert figures["agnostic_box_ap"] is None
