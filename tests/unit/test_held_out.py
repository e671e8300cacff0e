"""What may be fitted and tuned on, and what a federated file says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mobius_seg.data.coco import read_coco
from mobius_seg.errors import InputError
from mobius_seg.evaluate.ap import ApScorer
from mobius_seg.evaluate.calibrate import calibrate
from mobius_seg.evaluate.stage_scores import collect
from mobius_seg.predictor import Predictor
from mobius_seg.tune_pruning import tune

SIDE = 64


def write(folder: Path, info: Any = None, **image: Any) -> Path:
    """One picture with a cup in its left half."""
    Image.new("RGB", (SIDE, SIDE)).save(folder / "0.png")
    data = {
        "info": info,
        "images": [{"id": 1, "file_name": "0.png", "height": SIDE, "width": SIDE, **image}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 32, SIDE], "iscrowd": 0}
            | {"segmentation": [[0, 0, 32, 0, 32, SIDE, 0, SIDE]]}
        ],
        "categories": [{"id": i, "name": f"thing {i}"} for i in (1, 2, 3)],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("split", ["train", "val-base", "val-novel"])
def test_splits_that_training_or_testing_uses_are_refused(
    split: str, tmp_path: Path, predictor: Predictor
) -> None:
    path = write(tmp_path, {"split": split})
    for use in (
        lambda: calibrate(predictor, path, tmp_path, weights_sha256="", progress=False),
        lambda: tune(predictor, path, tmp_path, progress=False),
    ):
        with pytest.raises(InputError, match=f"holds the split '{split}', which") as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("info", [None, {}, {"split": "calib"}, {"split": 3}, "train", []])
def test_other_files_are_taken_and_named(info: Any, tmp_path: Path) -> None:
    coco = read_coco(write(tmp_path, info))
    coco.check_held_out("calibration")
    found = coco.provenance()
    assert found["split"] == ("calib" if info == {"split": "calib"} else None)
    assert found["annotations"] == "annotations.json"
    assert len(found["annotations_sha256"] or "") == 64


def test_federated_files_calibrate_no_prompts_without_names(
    tmp_path: Path, predictor: Predictor
) -> None:
    path = write(tmp_path, neg_category_ids=[2])
    with pytest.raises(InputError, match="is federated"):
        calibrate(predictor, path, tmp_path, weights_sha256="", progress=False)
    with pytest.raises(InputError, match="is federated"):
        collect(predictor, read_coco(path), tmp_path, [0], named=False)
    collect(predictor, read_coco(path), tmp_path, [0], named=True)


def test_names_a_federated_file_says_nothing_about_do_not_count(tmp_path: Path) -> None:
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[:, :32] = 1
    rle = coco_mask.encode(mask)
    boxes = np.array([[0, 0, 32, SIDE]] * 2, np.float32)

    def counted(**image: Any) -> list[int]:
        scorer = ApScorer(read_coco(write(tmp_path, **image)), [0])
        for other in ("thing 2", "thing 3"):
            scores = np.array([0.5, 0.9], np.float32)
            scorer.add(0, [rle, rle], boxes, scores, ["thing 1", other])
        assert len(scorer._agnostic) == 4
        return [entry["category_id"] for entry in scorer._named]

    assert counted() == [2, 1, 3, 1]
    assert counted(neg_category_ids=[2]) == [2, 1, 1]
