"""Backgrounds: the list of pictures, reading it, drawn surfaces."""

import hashlib
import io
import json
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobius_seg.data import backgrounds
from mobius_seg.data.backgrounds import Backdrops, collect_backgrounds
from mobius_seg.data.textures import draw_texture
from mobius_seg.errors import InputError

ALLOWED = {"CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0", "BSD-3-Clause", "MIT"}


def listed() -> list[dict]:
    text = resources.files("mobius_seg.data").joinpath("background_list.json").read_text("utf-8")
    return json.loads(text)["pictures"]


def test_listed_pictures_are_free_and_in_one_split_each() -> None:
    entries = listed()
    assert {e["licence"] for e in entries} <= ALLOWED
    assert all(e["author"] for e in entries)
    assert len({e["sha256"] for e in entries}) == len(entries)  # no picture in two splits
    assert {e["split"] for e in entries} == {"train", "calib", "val"}
    assert {e["kind"] for e in entries} == {"photograph", "texture"}
    assert not any(word in e["file"] for e in entries for word in ("chelsea", "coffee.png"))
    for entry in entries:
        for x0, y0, x1, y1 in entry["parts"]:
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 20), (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_list(path: Path, files: dict[str, bytes]) -> None:
    pictures = [
        {
            "package": "p",
            "file": file,
            "sha256": hashlib.sha256(data).hexdigest(),
            "licence": "CC0-1.0",
            "author": "nobody",
            "split": split,
            "kind": "texture",
            "parts": [[0, 0, 1, 1], [0, 0, 0.5, 1]],
        }
        for (file, data), split in zip(files.items(), ("train", "val"), strict=True)
    ]
    (path / "background_list.json").write_text(json.dumps({"pictures": pictures}), "utf-8")


def test_files_and_archive_members_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_list(tmp_path, {"a.png": png(200), "z.zip!in/b.png": png(90)})
    monkeypatch.setattr(backgrounds.resources, "files", lambda _: tmp_path)
    root = tmp_path / "unpacked" / "p"
    with pytest.raises(InputError, match=r"a\.png.*assets fetch"):
        collect_backgrounds(tmp_path)
    root.mkdir(parents=True)
    (root / "a.png").write_bytes(png(200))
    with zipfile.ZipFile(root / "z.zip", "w") as archive:
        archive.writestr("in/b.png", png(90))
    found = collect_backgrounds(tmp_path, max_side=30)
    assert [b.split for b in found] == [1, 1, 4, 4]
    sizes = [Image.open(io.BytesIO(b.data)).size for b in found]
    assert sizes == [(30, 15), (20, 20), (30, 15), (20, 20)]
    (root / "a.png").write_bytes(png(201))
    with pytest.raises(InputError, match="digest"):
        collect_backgrounds(tmp_path)


def test_drawn_surfaces_vary_and_repeat_with_their_seed() -> None:
    pictures = [draw_texture(np.random.default_rng(i), 48, 64) for i in range(60)]
    assert all(p.shape == (48, 64, 3) and p.dtype == np.uint8 for p in pictures)
    np.testing.assert_array_equal(pictures[7], draw_texture(np.random.default_rng(7), 48, 64))
    means = np.array([p.mean() for p in pictures])
    assert means.std() > 20
    assert np.mean([p.std() > 2 for p in pictures]) > 0.9


class OnePicture:
    def background(self, index: int) -> np.ndarray:
        picture = np.full((30, 50, 3), (10, 100, 200), np.uint8)
        picture[::3] = 50
        picture.flags.writeable = False
        return picture


@pytest.mark.parametrize("size", [(32, 32), (33, 65), (300, 300)])
def test_a_backdrop_has_the_wanted_size_and_may_be_painted_on(size: tuple[int, int]) -> None:
    backdrops = Backdrops(OnePicture(), np.array([0]))
    for i in range(30):
        picture = backdrops.draw(np.random.default_rng(i), *size)
        assert picture.shape == (*size, 3)
        assert picture.dtype == np.uint8
        picture[:] = 0  # nobody else's memory


def test_without_pictures_all_surfaces_are_drawn() -> None:
    backdrops = Backdrops(OnePicture(), np.array([], np.int64))
    assert backdrops.draw(np.random.default_rng(0), 32, 32).shape == (32, 32, 3)
