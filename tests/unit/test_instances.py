"""What a prediction returns, and how it is drawn."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from mobius_seg.errors import InputError
from mobius_seg.instances import Instances
from mobius_seg.viz import color, draw_instances, save_image, shorten

NAMES = ["cup", "a [bold]dog[/]", "שלום עולם", "🐱", "x" * 10_000, "\x1b[31m\n"]


def _instances(height: int = 40, width: int = 60, names: list[str] = NAMES) -> Instances:
    """Discs in a row, one a name."""
    y, x = np.mgrid[:height, :width]
    masks = [(y - height / 2) ** 2 + (x - 5 - 9 * i) ** 2 < 16 for i in range(len(names))]
    rles, boxes = [], []
    for mask in masks:
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        rles.append({"size": [height, width], "counts": rle["counts"].decode()})
        left, top, wide, high = coco_mask.toBbox(rle)
        boxes.append([left, top, left + wide, top + high])
    return Instances(
        image_size=(height, width),
        rles=rles,
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.4, len(names)).astype(np.float32),
        names=list(names),
        name_ids=np.arange(len(names)),
        instance_ids=np.arange(len(names)),
    )


def _picture(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 90, np.uint8)


def test_masks_are_made_when_asked() -> None:
    found = _instances()
    assert found.masks.shape == (6, 40, 60)
    assert found.masks.dtype == np.bool_
    assert np.array_equal(found.masks[2], found.mask(2))
    assert found.areas.tolist() == found.masks.sum((1, 2)).tolist()


def test_selection() -> None:
    found = _instances()
    assert found[1].names == [NAMES[1]]
    assert found[-1].names == [NAMES[-1]]
    assert found[:2].names == NAMES[:2]
    assert found[found.scores > 0.65].names == NAMES[:3]
    assert found[[3, 0]].names == [NAMES[3], NAMES[0]]
    assert np.array_equal(found[[3, 0]].masks, found.masks[[3, 0]])
    with pytest.raises(IndexError):
        found[6]


def test_no_instances() -> None:
    none = Instances.empty((7, 9))
    assert len(none) == 0
    assert none.masks.shape == (0, 7, 9)
    assert none.areas.shape == (0,)
    assert none.boxes_xyxy.shape == (0, 4)
    assert none.to_coco() == []
    assert none.plot(_picture(7, 9)).size == (9, 7)
    assert len(none[:3]) == 0


def test_to_coco() -> None:
    found = _instances()
    entries = found.to_coco(image_id=7)
    assert [entry["category_id"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert {entry["image_id"] for entry in entries} == {7}
    assert entries[0]["bbox"] == [2.0, 17.0, 7.0, 7.0]
    assert np.array_equal(coco_mask.decode(entries[1]["segmentation"]), found.mask(1))
    sparse = found[:1].to_coco(category_ids={"cup": 44})
    assert sparse[0]["category_id"] == 44
    with pytest.raises(InputError, match="no id for the name"):
        found.to_coco(category_ids={"cup": 44})


def test_to_supervision() -> None:
    supervision = pytest.importorskip("supervision")
    found = _instances()
    detections = found.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert np.array_equal(detections.mask, found.masks)
    assert np.array_equal(detections.xyxy, found.boxes_xyxy)
    assert list(detections.data["class_name"]) == NAMES
    assert len(Instances.empty((4, 4)).to_supervision()) == 0


def test_missing_supervision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(InputError, match="pip install supervision"):
        _instances().to_supervision()


def test_plot_tints_masks_alone(tmp_path: Path) -> None:
    found, picture = _instances(names=["cup", "dog"]), _picture()
    drawing = found.plot(picture, tmp_path / "new" / "plot.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "plot.png")), drawing)
    changed = (np.asarray(drawing) != picture).any(-1)
    assert changed[found.mask(0)].all()
    assert np.array_equal(picture, _picture()), "the picture itself stays as it is"
    assert not changed[35:, 30:].any()


def test_plot_needs_the_right_picture() -> None:
    found = _instances()
    with pytest.raises(InputError, match="do not know theirs"):
        found.plot()
    with pytest.raises(InputError, match="5 x 4 pixels"):
        found.plot(_picture(4, 5))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (3, 5), (64, 64)])
def test_drawing_tiny_pictures(height: int, width: int) -> None:
    assert draw_instances(_picture(height, width), _instances(height, width)).size == (
        width,
        height,
    )


def test_colours_are_stable_and_differ() -> None:
    colours = [color(i) for i in range(30)]
    assert len(set(colours)) == 30
    assert colours == [color(i) for i in range(30)]
    assert all(0 <= value <= 255 for c in colours for value in c)


def test_shorten() -> None:
    assert shorten("cup") == "cup"
    assert shorten("a\nb\x1b") == "a b "
    assert len(shorten("x" * 10_000)) == 40


def test_save_image_names_what_is_wrong(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 2))
    for name in ("picture.nothing", "file/picture.png"):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(InputError, match="cannot be written"):
            save_image(image, tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
