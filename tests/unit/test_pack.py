"""The pack file: round trip, splits, cache and bad input."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobius_seg.data.pack import CALIB, TRAIN, VAL, Cutout, Pack, PackMeta, write_pack
from mobius_seg.errors import InputError


def encode(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "WEBP", lossless=True, exact=True)
    return stream.getvalue()


def make_pack(path: Path) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (4 + i, 6, 4), np.uint8) for i in range(5)]
    labels = [(0, TRAIN), (0, CALIB), (0, VAL), (1, TRAIN | CALIB | VAL), (2, TRAIN | CALIB | VAL)]
    write_pack(
        path,
        meta=PackMeta(
            names=("cup", "book", "fox"),
            name_split=("base", "base", "novel"),
            object_colours=("red", None, "orange"),
            sources=({"package": "drawn", "licence": "CC0-1.0"},),
            text_identity="none",
        ),
        name_embeddings_ND=np.eye(3, dtype=np.float32),
        cutouts=[
            Cutout(data=encode(picture), name=name, split=split, object=name, source=0)
            for picture, (name, split) in zip(pictures, labels, strict=True)
        ],
        backgrounds=[
            (encode(np.full((3, 3, 3), 10 * i, np.uint8)), bit) for i, bit in enumerate((1, 2, 4))
        ],
    )
    return pictures


def test_round_trip(tmp_path: Path) -> None:
    pictures = make_pack(tmp_path / "p.safetensors")
    pack = Pack.open(tmp_path / "p.safetensors")
    assert len(pack) == 5
    assert pack.names == ("cup", "book", "fox")
    assert pack.name_embeddings.dtype == np.float16
    for index, picture in enumerate(pictures):
        np.testing.assert_array_equal(pack.cutout(index), picture)
    assert pack.background(2).tolist() == np.full((3, 3, 3), 20).tolist()
    assert [pack.colour(i) for i in range(5)] == ["red", "red", "red", None, "orange"]
    assert len(pack.digest) == 64


def test_splits_select_picture_and_name(tmp_path: Path) -> None:
    make_pack(tmp_path / "p.safetensors")
    pack = Pack.open(tmp_path / "p.safetensors")
    assert pack.cutouts_for("train").tolist() == [0, 3]
    assert pack.cutouts_for("calib").tolist() == [1, 3]
    assert pack.cutouts_for("val-base").tolist() == [2, 3]
    assert pack.cutouts_for("val-novel").tolist() == [4]
    assert pack.backgrounds_for("val-novel").tolist() == [2]
    with pytest.raises(InputError, match="val-novel"):
        pack.cutouts_for("test")


def test_cache_is_bounded_and_pictures_are_read_only(tmp_path: Path) -> None:
    make_pack(tmp_path / "p.safetensors")
    pack = Pack.open(tmp_path / "p.safetensors", cache_mb=1)
    assert pack.cutout(0) is pack.cutout(0)
    with pytest.raises(ValueError, match="read-only"):
        pack.cutout(0)[0, 0, 0] = 1
    uncached = Pack.open(tmp_path / "p.safetensors", cache_mb=0)
    assert uncached.cutout(0) is not uncached.cutout(0)
    with pytest.raises(IndexError, match="holds 5"):
        pack.cutout(5)


def test_pickle_opens_again(tmp_path: Path) -> None:
    make_pack(tmp_path / "p.safetensors")
    pack = Pack.open(tmp_path / "p.safetensors", cache_mb=3)
    again = pickle.loads(pickle.dumps(pack))
    np.testing.assert_array_equal(again.cutout(1), pack.cutout(1))


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such pack"):
        Pack.open(tmp_path / "missing.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="not a pack"):
        Pack.open(broken)
