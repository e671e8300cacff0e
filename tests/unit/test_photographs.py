"""The photographs' annotations are whole, frozen, and kept apart from training and fitting."""

import hashlib
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mobius_seg.data.assets import read_sources
from mobius_seg.data.coco import read_coco
from mobius_seg.errors import InputError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "photos"
PAGE = ROOT / "docs" / "photographs.md"
HALVES = ("dev", "test")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("photos_fetch", FOLDER / "fetch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _half(half: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{half}.json").read_text(encoding="utf-8"))


def _images() -> list[dict[str, Any]]:
    return [entry for half in HALVES for entry in _half(half)["images"]]


@pytest.mark.parametrize("name", ["dev.json", "test.json"])
def test_the_set_is_frozen(name: str) -> None:
    stated = dict(re.findall(r"`(\w+\.json)` \| `([0-9a-f]{64})`", PAGE.read_text("utf-8")))
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == stated[name]


@pytest.mark.parametrize("half", HALVES)
def test_eval_can_read_a_half(half: str) -> None:
    data = read_coco(FOLDER / f"{half}.json")
    assert {entry["split"] for entry in _half(half)["images"]} == {half}
    for index, annotation in enumerate(data.annotations):
        mask = data.mask(index)
        assert mask is not None
        assert mask.any()
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert annotation.bbox == pytest.approx(box)
        assert annotation.area == mask.sum()


@pytest.mark.parametrize("half", HALVES)
def test_polygons_lie_in_their_pictures(half: str) -> None:
    content = _half(half)
    sizes = {entry["id"]: (entry["width"], entry["height"]) for entry in content["images"]}
    for annotation in content["annotations"]:
        for polygon in annotation["segmentation"]:
            points = np.reshape(polygon, (-1, 2))
            assert points.min() >= 0
            assert (points <= sizes[annotation["image_id"]]).all(), annotation["id"]


@pytest.mark.parametrize("half", HALVES)
def test_objects_of_a_picture_do_not_share_pixels(half: str) -> None:
    data = read_coco(FOLDER / f"{half}.json")
    for rows in data.by_image:
        worn = {"glasses"}  # part of whoever wears them, and an object of their own
        kept = [row for row in rows if data.names[data.annotations[row].name] not in worn]
        rles = [data.rle(row) for row in kept if not data.annotations[row].crowd]
        shared = coco_mask.iou(rles, rles, [0] * len(rles)) - np.eye(len(rles))
        assert np.max(shared, initial=0) < 0.02


def test_enough_pictures_and_objects() -> None:
    objects = [a for half in HALVES for a in _half(half)["annotations"] if not a["iscrowd"]]
    assert len(_images()) >= 30
    assert len(objects) >= 100
    assert len({a["id"] for a in objects}) == len(objects)


def test_every_picture_says_where_it_is_from(script: ModuleType) -> None:
    packages = {source.package: source for source in script.sources()}
    for entry in _images():
        source = packages[entry["package"]]
        assert (entry["registry"], entry["version"]) == (source.registry, source.version)
        assert entry["licence"]
        assert entry["author"]
        assert re.fullmatch("[0-9a-f]{64}", entry["sha256"])
        assert ("offset" in entry) == ("bytes" in entry) == ("member" in entry)
    assert {entry["package"] for entry in _images()} == set(packages)
    for key in ("sha256", "file_name", "id"):
        assert len({entry[key] for entry in _images()}) == len(_images())


def test_no_package_is_one_of_the_training_s(script: ModuleType) -> None:
    assert not {s.package for s in script.sources()} & {s.package for s in read_sources()}


def test_the_halves_follow_their_rule() -> None:
    digests = {
        entry["file_name"]: hashlib.sha256(entry["file_name"].encode()).hexdigest()
        for entry in _images()
    }
    parts: list[list[str]] = [[], []]
    for name in sorted(digests, key=lambda name: digests[name]):
        parts[int(digests[name], 16) % 2].append(name)
    for larger, smaller in ((0, 1), (1, 0)):
        while len(parts[larger]) - len(parts[smaller]) > 1:
            parts[smaller].append(parts[larger].pop())
    for part, half in zip(parts, HALVES, strict=True):
        assert set(part) == {entry["file_name"] for entry in _half(half)["images"]}


def test_only_the_dev_half_may_be_fitted_on() -> None:
    read_coco(FOLDER / "dev.json").check_held_out("a fit")
    with pytest.raises(InputError, match="must not see"):
        read_coco(FOLDER / "test.json").check_held_out("a fit")


def test_the_page_lists_every_picture(script: ModuleType) -> None:
    assert script.table_of_pictures() in PAGE.read_text(encoding="utf-8")


def test_a_picture_is_copied_as_it_is(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "unpacked" / "a.rcc").write_bytes(b"headpicturetail")
    entry = {
        "file_name": "a.jpg",
        "package": "p",
        "file": "a.rcc",
        "offset": 4,
        "bytes": 7,
        "sha256": hashlib.sha256(b"picture").hexdigest(),
    }
    folders, out = {"p": tmp_path / "unpacked"}, tmp_path / "out"
    script.write_picture(entry, folders, out)
    assert (out / "a.jpg").read_bytes() == b"picture"
    (tmp_path / "unpacked" / "a.rcc").write_bytes(b"headPicturetail")
    with pytest.raises(InputError, match=r"^a\.jpg: SHA-256 .* is not the pinned"):
        script.write_picture(entry | {"file_name": "a.jpg"}, folders, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(InputError, match="cannot be read"):
        script.write_picture(entry | {"file": "b.rcc"}, folders, out)


def test_what_cannot_be_fetched_is_told_in_a_line(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = script.sources()[0]
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / first.file).write_bytes(b"another file")
    monkeypatch.setattr(sys, "argv", ["fetch.py", "--assets", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "is not the pinned" in error
