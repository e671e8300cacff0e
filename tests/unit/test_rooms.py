"""Planning of rooms: things stand on what carries them; data sets of drawn ones."""

import contextlib
import json
import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobius_seg.data import room_files, room_geometry, room_render
from mobius_seg.data.assets import Source
from mobius_seg.data.catalogue import FurnitureModel
from mobius_seg.data.coco_file import read_coco
from mobius_seg.data.objects import ObjectEntry
from mobius_seg.data.room_camera import Camera, is_clear
from mobius_seg.data.room_layout import Layout, Placement, footprint, overlap
from mobius_seg.data.room_render import DrawnRoom, develop, shows
from mobius_seg.data.room_things import Stock, Thing, make_thing
from mobius_seg.data.rooms import RoomPlan, plan_scene
from mobius_seg.errors import InputError

# name, category, width, height and depth in cm, elevation, height that things are dropped at
FURNITURE = (
    ("table", "Living room", (160, 75, 90), 0, 75),
    ("glass table", "Living room", (120, 76, 80), 0, 76),
    ("chair", "Living room", (45, 90, 50), 0, 46),
    ("sofa", "Living room", (200, 85, 90), 0, 42),
    ("cabinet", "Kitchen", (60, 88, 61), 0, 88),
    ("shelves", "Living room", (80, 150, 38), 0, 70),
    ("fridge", "Kitchen", (60, 170, 62), 0, None),
    ("bed", "Bedroom", (150, 90, 210), 0, 50),
    ("woman", "Characters", (50, 168, 40), 0, None),
    ("wall lamp", "Lights", (23, 40, 20), 150, None),
    ("door", "Doors and windows", (90, 210, 14), 0, None),
    ("ceiling lamp", "Lights", (30, 20, 30), 230, None),
    ("doormat", "Living room", (80, 2, 50), 0, None),
    ("cup", "Kitchen", (9, 10, 9), 0, None),
    ("plate", "Kitchen", (22, 2, 22), 0, None),
    ("laptop", "Office", (34, 25, 26), 0, None),
    ("book", "Miscellaneous", (28, 3, 19), 0, None),
    ("teddy bear", "Bedroom", (30, 32, 22), 0, None),
    ("car", "Vehicles", (200, 150, 440), 0, None),
    ("bush", "Exterior", (150, 130, 140), 0, None),
    ("bench", "Exterior", (170, 80, 60), 0, 45),
)

TEXTURES = ("wood.jpg", "grass.png", "cloth.jpg", "marble.jpg")


def model_of(
    name: str, category: str, size: tuple[float, ...], elevation: float, drop: float | None
) -> FurnitureModel:
    return FurnitureModel(
        key=f"test-{name}",
        name=name,
        category=category,
        path=Path("none.obj"),
        size_cm=(float(size[0]), float(size[1]), float(size[2])),
        rotation=(1, 0, 0, 0, 1, 0, 0, 0, 1),
        author="Someone",
        licence="CC0-1.0",
        elevation_cm=elevation,
        drop_cm=drop,
    )


@pytest.fixture(scope="module")
def stock() -> Stock:
    things = [make_thing(model_of(*row), row[0]) for row in FURNITURE]
    return Stock([thing for thing in things if thing is not None])


@pytest.fixture(scope="module")
def plans(stock: Stock) -> list[RoomPlan]:
    return [plan_scene(stock, TEXTURES, 3, index) for index in range(120)]


def _placements(plans: list[RoomPlan]) -> Iterator[tuple[RoomPlan, Placement]]:
    for plan in plans:
        for placement in plan.placements:
            yield plan, placement


def test_roles_follow_the_catalogue(stock: Stock) -> None:
    things = {thing.name: thing for thing in stock.things}
    assert set(things) == {row[0] for row in FURNITURE}
    roles = {name: thing.role for name, thing in things.items()}
    assert roles["wall lamp"] == "wall"
    assert roles["ceiling lamp"] == "ceiling"
    assert roles["cup"] == roles["laptop"] == "small"
    assert roles["car"] == roles["bench"] == "ground"
    assert roles["doormat"] == "rug"
    assert things["table"].carries
    assert things["table"].surface == "top"
    assert (things["chair"].surface, things["shelves"].surface) == ("seat", "shelf")
    assert not things["fridge"].carries
    assert things["sofa"].backed
    assert not things["table"].backed
    assert make_thing(model_of("elevator", "Vehicles", (1, 1, 1), 0, None), "elevator") is None


def test_every_kind_of_scene_is_planned(plans: list[RoomPlan]) -> None:
    assert {plan.kind for plan in plans} == {"room", "close", "street"}
    shown = {placement.thing.name for _, placement in _placements(plans)}
    assert shown == {row[0] for row in FURNITURE}
    assert max(len(plan.placements) for plan in plans) <= 18
    assert min(len(plan.walls) for plan in plans if plan.kind != "street") >= 2


def test_things_stand_on_what_carries_them(plans: list[RoomPlan]) -> None:
    carried = 0
    for plan, placement in _placements(plans):
        x, y, z = placement.position
        role = placement.thing.role
        if placement.on is not None:
            carried += 1
            base = plan.placements[placement.on]
            assert plan.placements.index(placement) > placement.on
            assert base.thing.top is not None
            assert z == pytest.approx(base.position[2] + base.thing.top)
            low, high = base.box()
            assert (low[:2] < (x, y)).all()
            assert ((x, y) < high[:2]).all()
        elif role == "ceiling":
            assert z + placement.thing.size[2] == pytest.approx(plan.height)
        elif role == "wall":
            assert z > 0
        else:
            assert z == 0
            assert role != "small" or placement.thing.floor_too
    assert carried > 100


def test_backs_are_to_the_wall(plans: list[RoomPlan]) -> None:
    seen = set()
    for plan, placement in _placements(plans):
        if placement.thing.role != "wall" or plan.kind == "street":
            continue
        low, high = placement.box()
        half = plan.width / 2
        gaps = {"back": plan.depth - high[1], "left": low[0] + half, "right": half - high[0]}
        turns = {0.0: "back", math.pi / 2: "left", -math.pi / 2: "right"}
        wall = turns[placement.yaw]  # the front looks away from the wall
        assert gaps[wall] == pytest.approx(0.01)
        assert wall in plan.walls
        seen.add(wall)
    assert seen == {"back", "left", "right"}


def test_nothing_overlaps(plans: list[RoomPlan]) -> None:
    for plan in plans:
        for number, first in enumerate(plan.placements):
            for other, second in enumerate(plan.placements[:number]):
                if "rug" in (first.thing.role, second.thing.role):
                    continue
                if other in (first.on, first.tucked):
                    continue
                assert not overlap(first.box(), second.box(), -1e-6), (first, second)


def test_things_stay_inside_and_cameras_see_from_free_places(plans: list[RoomPlan]) -> None:
    for plan in plans:
        boxes = np.stack([placement.box() for placement in plan.placements])
        assert is_clear(plan.camera.position, boxes, 0.02)
        if plan.kind == "street":
            continue
        x, y, z = plan.camera.position
        assert abs(x) < plan.width / 2
        assert plan.front < y < plan.depth
        assert 0.2 < z < plan.height
        assert boxes[:, 0, 2].min() >= 0
        assert boxes[:, 1, 2].max() <= plan.height + 1e-5


def test_a_plan_depends_on_its_numbers_alone(stock: Stock, plans: list[RoomPlan]) -> None:
    assert plan_scene(stock, TEXTURES, 3, 7) == plans[7]
    others = (plan_scene(stock, TEXTURES, 4, 7), plan_scene(stock, TEXTURES, 3, 7, 1), plans[8])
    assert plans[7] not in others


def test_bad_input(stock: Stock, tmp_path: Path) -> None:
    for seed, index, attempt in ((-1, 0, 0), (0, -1, 0), (0, 0, -1)):
        with pytest.raises(InputError, match="must be at least 0"):
            plan_scene(stock, TEXTURES, seed, index, attempt)
    with pytest.raises(InputError, match="no model"):
        plan_scene(Stock([]), TEXTURES, 0, 0)
    out = tmp_path / "rooms"
    for count, size, seed, samples in ((0, 64, 0, 1), (1, 8, 0, 1), (1, 64, -1, 1), (1, 64, 0, 0)):
        with pytest.raises(InputError, match=r"count|size|seed|samples"):
            room_files.write_rooms(tmp_path, count, size, seed, out, samples=samples)
    with pytest.raises(InputError, match="assets fetch"):
        room_files.write_rooms(tmp_path, 1, 64, 0, out)
    assert not out.exists()


def test_without_blender_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(room_render.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"extra 'rooms' under Python 3\.11") as caught:
        room_render.RoomRenderer({}, (), size=64, samples=1)
    assert "\n" not in str(caught.value)


def test_only_base_names_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(
        package="things", registry="npm", version="1", file="f", sha256="0", licence="MIT",
        author="A", role="object", kind="furniture",
    )  # fmt: skip
    rows = [(*FURNITURE[0], "base"), (*FURNITURE[13], "novel"), (*FURNITURE[2], "base")]
    (tmp_path / "m.obj").write_text("")
    entries = [
        ObjectEntry(
            name=row[0], colour=None, source=source, key=row[0],
            model=replace(model_of(*row[:5]), path=tmp_path / "m.obj"),
        )
        for row in rows
    ]  # fmt: skip
    split = {row[0]: row[5] for row in rows} | {"kite": "base"}
    monkeypatch.setattr(room_files, "read_sources", lambda: [source])
    monkeypatch.setattr(room_files, "list_objects", lambda *_: entries)
    monkeypatch.setattr(room_files, "read_split", lambda: split)
    monkeypatch.setattr(room_files, "_textures", lambda *_: ([], set()))
    assets = room_files.read_assets(tmp_path)
    assert assets.stock.names == ("chair", "table")
    assert assets.names == ("table", "chair", "kite")  # with a model or not
    assert [entry["package"] for entry in assets.sources] == ["things"]


class FakeRenderer:
    """Draws nothing: every planned thing of a scene gets a stripe."""

    version = "none"
    drawn = 0
    limit = 100

    def __init__(self, *_: object, size: int, **__: object) -> None:
        self.size = size

    def draw(self, plan: RoomPlan) -> DrawnRoom:
        FakeRenderer.drawn += 1
        if FakeRenderer.drawn > FakeRenderer.limit:
            raise KeyboardInterrupt
        placements = plan.placements[:4]
        masks = np.zeros((len(placements), self.size, self.size), bool)
        for row, mask in enumerate(masks):
            mask[row * 8 : row * 8 + 5, 3:20] = True
        return DrawnRoom(
            image=np.full((self.size, self.size, 3), 90, np.uint8),
            placements=placements,
            masks=masks,
            full_areas=tuple(100.0 for _ in placements),
            crowd=tuple(row == 3 for row in range(len(placements))),
        )


@pytest.fixture
def drawing(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = room_files.RoomAssets(
        stock=stock,
        models={},
        names=(*stock.names, "kite"),
        textures=(),
        sources=({"package": "a"},),
    )
    monkeypatch.setattr(room_files, "read_assets", lambda _: assets)
    monkeypatch.setattr(room_files, "RoomRenderer", FakeRenderer)
    monkeypatch.setattr(FakeRenderer, "drawn", 0)
    monkeypatch.setattr(FakeRenderer, "limit", 100)


@pytest.mark.usefixtures("drawing")
def test_a_stopped_run_goes_on_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = room_files.write_rooms("a", 6, 64, 0, tmp_path / "whole")
    monkeypatch.setattr(FakeRenderer, "drawn", 0)
    monkeypatch.setattr(FakeRenderer, "limit", 2)
    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        room_files.write_rooms("a", 6, 64, 0, parts)
    assert not (parts / "annotations.json").exists()
    kept = (parts / "images" / "000001.png").stat().st_mtime_ns
    monkeypatch.setattr(FakeRenderer, "limit", 1000)
    assert room_files.write_rooms("a", 6, 64, 0, parts) == whole
    assert (parts / "images" / "000001.png").stat().st_mtime_ns == kept
    with pytest.raises(InputError, match="other settings"):
        room_files.write_rooms("a", 6, 64, 1, parts)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("")
    with pytest.raises(InputError, match="not an empty folder"):
        room_files.write_rooms("a", 1, 64, 0, tmp_path / "full")


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_scene_though_the_renderer_swallows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    draw = FakeRenderer.draw

    def signalled(renderer: FakeRenderer, plan: RoomPlan) -> DrawnRoom:
        if FakeRenderer.drawn == 2:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(number)
        return draw(renderer, plan)

    monkeypatch.setattr(FakeRenderer, "draw", signalled)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        room_files.write_rooms("a", 6, 64, 0, tmp_path / "rooms")
    assert signal.getsignal(number) is before
    assert len(list((tmp_path / "rooms" / "scenes").iterdir())) == 3
    assert not (tmp_path / "rooms" / "annotations.json").exists()


@pytest.mark.usefixtures("drawing")
def test_the_annotation_file_is_coco(tmp_path: Path, stock: Stock) -> None:
    room_files.write_rooms("a", 3, 64, 0, tmp_path / "rooms")
    data = read_coco(tmp_path / "rooms" / "annotations.json")
    assert data.split == "train"
    assert data.names == (*stock.names, "kite")
    assert [image.file_name for image in data.images] == [f"{n:06d}.png" for n in (1, 2, 3)]
    assert len(data.annotations) > 6
    for annotation in data.annotations:
        assert annotation.area == 85
        assert annotation.bbox[2:] == (17, 5)
    info = json.loads((tmp_path / "rooms" / "annotations.json").read_text())["info"]
    assert info["sources"] == [{"package": "a"}]
    assert info["count"] == 3


def _box_triangles(low: tuple[float, ...], high: tuple[float, ...]) -> np.ndarray:
    """The two horizontal sides of a box."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    found = []
    for z in (z0, z1):
        found.append([[x0, y0, z], [x1, y0, z], [x1, y1, z]])
        found.append([[x0, y0, z], [x1, y1, z], [x0, y1, z]])
    return np.array(found, np.float64)


def _thing(size: tuple[float, float, float]) -> Thing:
    return Thing(key="t", name="t", category="Kitchen", size=size, role="small")


def test_settling_finds_the_surface_and_refuses_edges_and_obstacles() -> None:
    top = _box_triangles((-0.5, -0.4, 0.68), (0.5, 0.4, 0.72))
    cup = Placement(thing=_thing((0.1, 0.1, 0.1)), position=(0.2, 0.1, 0.75), yaw=0.6, on=0)
    assert room_geometry.settle(cup, top) == pytest.approx(0.72, abs=1e-3)
    over_edge = replace(cup, position=(0.5, 0.1, 0.75))
    assert room_geometry.settle(over_edge, top) is None
    far_above = replace(cup, position=(0.2, 0.1, 0.95))
    assert room_geometry.settle(far_above, top) is None
    books = _box_triangles((0.1, 0.0, 0.72), (0.3, 0.3, 0.8))
    assert room_geometry.settle(replace(cup, position=(0.2, 0.1, 0.7)), np.r_[top, books]) is None


def test_fitting_brings_models_to_their_size_and_pose() -> None:
    model = model_of("chair", "Office", (50, 90, 60), 0, 45)
    corners = np.array([[x, y, z] for x in (1, 3) for y in (2, 5) for z in (-1, 7)], float)
    fitted = room_geometry.transform(room_geometry.fit_matrix(corners, model), corners)
    np.testing.assert_allclose(fitted.min(0), [-0.25, -0.3, 0], atol=1e-9)
    np.testing.assert_allclose(fitted.max(0), [0.25, 0.3, 0.9], atol=1e-9)
    front = corners[:, 2] == 7  # +z of the file looks to the front, -y
    assert (fitted[front, 1] < 0).all()
    turned = Placement(thing=_thing((0.5, 0.6, 0.9)), position=(1.0, 2.0, 0.5), yaw=math.pi / 2)
    placed = room_geometry.transform(room_geometry.place_matrix(turned), fitted)
    np.testing.assert_allclose([placed.min(0), placed.max(0)], turned.box(), atol=1e-9)
    assert (placed[front, 0] > 1).all()  # its back is to the left wall


def test_silhouettes_are_counted_beyond_the_borders() -> None:
    camera = Camera(position=(0, -2, 0), target=(0, 0, 0), angle=math.degrees(2 * math.atan(0.5)))
    square = np.array([[[-1, 0, -1], [1, 0, -1], [1, 0, 1]], [[-1, 0, -1], [1, 0, 1], [-1, 0, 1]]])
    area = room_geometry.silhouette_area(camera, square.astype(float) * 0.5, 100)
    assert area == pytest.approx(50**2, rel=0.04)
    assert room_geometry.silhouette_area(camera, square * 2.0, 100) == pytest.approx(4e4, rel=0.04)
    assert room_geometry.silhouette_area(camera, square - [0.0, 5, 0], 100) == 0


def test_what_counts_as_shown() -> None:
    assert shows(60, 290, 320)
    assert not shows(59, 59, 320)
    assert not shows(100, 600, 320)
    assert shows(6000, 90000, 320)  # large although mostly out of the picture


def test_pictures_are_developed_to_one_brightness() -> None:
    light = np.random.default_rng(0).uniform(0, 1, (32, 32, 3))
    bright, dim = develop(light * 50, 0.2, 1.0), develop(light * 0.01, 0.2, 1.0)
    np.testing.assert_allclose(bright, dim, atol=3)
    assert 90 < bright.mean() < 150
    assert develop(np.zeros((4, 4, 3)), 0.2, 1.0).max() == 0


def test_a_chair_faces_its_table(stock: Stock) -> None:
    things = {thing.name: thing for thing in stock.things}
    for seed in range(20):
        layout = Layout(width=6, depth=6, height=2.6)
        table = layout.add(Placement(thing=things["table"], position=(0, 3, 0), yaw=0.4))
        assert table is not None
        number = layout.seat_at(np.random.default_rng(seed), table, things["chair"], None)
        assert number is not None
        chair = layout.placements[number]
        towards = np.array([0, 3]) - chair.position[:2]
        looks = np.array([math.sin(chair.yaw), -math.cos(chair.yaw)])
        assert looks @ towards > 0


def test_footprints_turn() -> None:
    thing = _thing((2.0, 1.0, 1.0))
    assert footprint(thing, 0) == pytest.approx((1.0, 0.5))
    assert footprint(thing, math.pi / 2) == pytest.approx((0.5, 1.0))
