"""Rooms drawn by Blender: masks agree with the picture, runs go on (skipped without ``bpy``)."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("bpy", reason="bpy is not installed (extra rooms)")

from mobius_seg.cli import main
from mobius_seg.data import room_files
from mobius_seg.data.catalogue import FurnitureModel
from mobius_seg.data.room_camera import Camera
from mobius_seg.data.room_layout import Placement
from mobius_seg.data.room_light import Lamp, Sky
from mobius_seg.data.room_render import RoomRenderer
from mobius_seg.data.room_things import Stock, Thing
from mobius_seg.data.rooms import Finish, RoomPlan

pytestmark = pytest.mark.slow

CUBE = """mtllib cube.mtl
v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nv 1 0 1\nv 1 1 1\nv 0 1 1
usemtl paint
f 1 4 3 2\nf 5 6 7 8\nf 1 2 6 5\nf 4 8 7 3\nf 2 3 7 6\nf 1 5 8 4
"""
GREY = Finish(texture=None, colour=(0.3, 0.3, 0.3), tile=1.0, roughness=1.0)
SIZES = {"red": (0.8, 0.6, 0.7), "green": (0.3, 0.3, 0.3), "blue": (0.5, 0.5, 1.0)}


def _model(folder: Path, name: str) -> FurnitureModel:
    place = folder / name
    place.mkdir()
    colour = " ".join(str(0.6 * (name == one) + 0.02) for one in ("red", "green", "blue"))
    (place / "cube.obj").write_text(CUBE)
    (place / "cube.mtl").write_text(f"newmtl paint\nKd {colour}\nd 1\n")
    width, depth, height = SIZES[name]
    return FurnitureModel(
        key=name, name=name, category="Office", path=place / "cube.obj",
        size_cm=(100 * width, 100 * height, 100 * depth),
        rotation=(1, 0, 0, 0, 1, 0, 0, 0, 1), author="", licence="CC0-1.0",
    )  # fmt: skip


def _placement(name: str, position: tuple[float, float, float], on: int | None = None) -> Placement:
    top = SIZES[name][2]
    thing = Thing(
        key=name, name=name, category="Office", size=SIZES[name],
        role="small" if on is not None else "floor", top=top, weight=1.0,
    )  # fmt: skip
    return Placement(thing=thing, position=position, yaw=0.5, on=on)


def _plan() -> RoomPlan:
    lamp = Lamp(
        kind="area", position=(0.5, -0.5, 2.3), target=(0, 1, 0.5), size=1.5, strength=60,
        colour=(1.0, 1.0, 1.0),
    )  # fmt: skip
    return RoomPlan(
        kind="room", width=4.0, depth=3.0, front=-2.0, height=2.5, walls=("back", "left", "right"),
        floor=GREY, wall=GREY, ceiling=GREY,
        placements=(
            _placement("red", (0.0, 1.0, 0.0)),
            _placement("green", (0.0, 1.0, 0.7), on=0),
            _placement("green", (0.35, 1.0, 0.75), on=0),  # over the edge: left out
            _placement("blue", (0.5, 2.2, 0.0)),  # partly behind
        ),
        camera=Camera(position=(0.0, -1.5, 1.3), target=(0.0, 1.0, 0.6), angle=45),
        lamps=(lamp,),
        sky=Sky(strength=0.5, zenith=(1.0, 1.0, 1.0), horizon=(1.0, 1.0, 1.0)),
        exposure=0.2, contrast=1.0, render_seed=1,
    )  # fmt: skip


def _inner(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its border."""
    near = [np.roll(mask, shift, axis) for shift in (-1, 1) for axis in (0, 1)]
    return np.logical_and.reduce([mask, *near])


def test_masks_agree_with_the_picture(tmp_path: Path) -> None:
    models = {name: _model(tmp_path, name) for name in SIZES}
    renderer = RoomRenderer(models, (), size=64, samples=1, threads=1)
    drawn = renderer.draw(_plan())
    assert [placement.thing.name for placement in drawn.placements] == ["red", "green", "blue"]
    assert drawn.masks.sum(0).max() == 1
    assert drawn.image.shape == (64, 64, 3)
    colours = drawn.image.astype(int)
    for channel, mask in enumerate(drawn.masks):
        others = np.delete(colours, channel, 2).max(2)
        strong = colours[..., channel] > others + 25
        assert strong[_inner(mask)].mean() > 0.97
        outside = _inner(~mask)
        assert strong[outside].mean() < 0.02  # reflections of its colour at most
    areas = drawn.masks.sum((1, 2))
    assert areas[0] == pytest.approx(drawn.full_areas[0], rel=0.1)  # only the green cube's foot
    assert areas[1] == pytest.approx(drawn.full_areas[1], rel=0.08)
    assert areas[2] < 0.9 * drawn.full_areas[2]
    again = renderer.draw(_plan())
    np.testing.assert_array_equal(again.masks, drawn.masks)
    np.testing.assert_array_equal(again.image, drawn.image)


def test_what_hardly_shows_is_taken_out(tmp_path: Path) -> None:
    models = {name: _model(tmp_path, name) for name in SIZES}
    plan = _plan()
    hidden = replace(plan.placements[3], position=(0.15, 1.9, 0.0), scale=0.62, yaw=0.0)
    plan = replace(plan, placements=(*plan.placements[:2], hidden))
    drawn = RoomRenderer(models, (), size=64, samples=1, threads=1).draw(plan)
    assert [placement.thing.name for placement in drawn.placements] == ["red", "green"]
    blue = drawn.image[..., 2].astype(int) > drawn.image[..., :2].max(2).astype(int) + 40
    assert not blue.any()


def test_the_command_draws_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {name: _model(tmp_path, name) for name in SIZES}
    things = [placement.thing for placement in _plan().placements[:1]]
    assets = room_files.RoomAssets(
        stock=Stock(things), models=models, names=("red", "kite"), textures=(), sources=()
    )
    monkeypatch.setattr(room_files, "read_assets", lambda _: assets)
    monkeypatch.setattr(room_files, "ATTEMPTS", 1)
    out = tmp_path / "rooms"
    command = ["rooms", "--size", "32", "--samples", "1", "--threads", "1", "--out", str(out)]
    assert main([*command, "--count", "1"]) == 0
    first = (out / "images" / "000001.png").read_bytes()
    assert main([*command, "--count", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2, lines  # nothing of Blender's own
    assert (out / "images" / "000001.png").read_bytes() == first
    data = json.loads((out / "annotations.json").read_text(encoding="utf-8"))
    assert [image["id"] for image in data["images"]] == [1, 2]
    assert data["info"]["split"] == "train"
