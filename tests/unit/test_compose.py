"""Scenes: exact disjoint masks, sizes, overlaps, determinism; COCO data sets of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from tests.support.shapes import write_shapes_pack

from mobius_seg.data import appearance, scenes
from mobius_seg.data.compose import SceneComposer, scene_rng, write_dataset
from mobius_seg.data.pack import Pack
from mobius_seg.data.patches import MIN_VISIBLE_PIXELS, PatchSource
from mobius_seg.errors import InputError


@pytest.fixture(scope="module")
def pack_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes_pack(tmp_path_factory.mktemp("pack") / "shapes.safetensors")


@pytest.fixture(scope="module")
def pack(pack_path: Path) -> Pack:
    return Pack.open(pack_path)


@pytest.fixture(scope="module")
def many(pack: Pack) -> list[scenes.Scene]:
    composer = SceneComposer(pack, "train", 256)
    return [composer.compose(scene_rng(0, i)) for i in range(150)]


def test_masks_and_picture_equal_an_independent_composition(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid: list[tuple[np.ndarray, tuple]] = []
    original = appearance.mix_in

    def record(canvas, patch, region):
        laid.append((patch.astype(np.float64), region))
        original(canvas, patch, region)

    monkeypatch.setattr(appearance, "mix_in", record)
    monkeypatch.setattr(appearance, "cast_shadow", lambda *_: None)
    monkeypatch.setattr(appearance, "finish", lambda _, image: image)
    composer = SceneComposer(pack, "train", 128)
    for index in range(20):
        laid.clear()
        ground = composer._backdrops.draw(scene_rng(5, index), 128, 128)
        scene = composer.compose(scene_rng(5, index))
        owner = np.zeros((128, 128), int)
        image = ground.astype(np.float64)
        for number, (patch, (on_canvas, on_patch)) in enumerate(laid, start=1):
            part = patch[on_patch]
            owner[on_canvas][2 * part[..., 3] > 255] = number
            image[on_canvas] = image[on_canvas] * (1 - part[..., 3:] / 255) + part[..., :3]
        assert len(scene.masks) == len(laid)
        np.testing.assert_array_equal(scene.masks, [owner == k + 1 for k in range(len(laid))])
        assert np.abs(np.clip(image, 0, 255) - scene.image).max() <= len(laid) + 1  # rounding


def test_masks_are_disjoint_visible_and_boxed(many: list[scenes.Scene]) -> None:
    for scene in many:
        assert scene.image.shape == (256, 256, 3)
        assert scene.image.dtype == np.uint8
        assert 1 <= len(scene.masks) <= 12
        assert scene.masks.sum(0).max() <= 1
        areas = scene.masks.sum((1, 2))
        assert areas.min() >= MIN_VISIBLE_PIXELS
        assert (areas <= scene.full_areas).all()
        for mask, box in zip(scene.masks, scene.boxes_xyxy, strict=True):
            rows, columns = np.nonzero(mask)
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == tight


def test_hidden_pixels_are_accounted_for(many: list[scenes.Scene]) -> None:
    for scene in many[:40]:
        inside = scene.masks.sum((1, 2)) + scene.covers.sum(0)
        assert (inside <= scene.full_areas).all()
        assert not np.tril(scene.covers.T).any()  # only a later object covers an earlier one


def test_at_least_thirty_per_cent_are_partly_hidden(many: list[scenes.Scene]) -> None:
    hidden = np.concatenate([s.covers.sum(0) / s.full_areas for s in many])
    assert (hidden >= 0.05).mean() >= 0.3


def test_counts_are_uniform_and_sides_log_uniform(pack: Pack) -> None:
    composer = SceneComposer(pack, "train", 256)
    plans = [composer._plan(scene_rng(1, i)) for i in range(1200)]
    counts = np.bincount([len(plan) for plan in plans], minlength=13)[1:]
    assert counts.min() > 60  # 100 expected
    sides = np.log([side / 256 for plan in plans for _, side in plan])
    assert np.exp(sides.min()) >= 0.05
    assert np.exp(sides.max()) <= 0.8
    shares = np.histogram(sides, bins=5)[0] / len(sides)
    np.testing.assert_allclose(shares, 0.2, atol=0.03)


def test_close_ups_hold_few_objects_and_large_ones(pack: Pack) -> None:
    close = SceneComposer(pack, "train", 256, close_ratio=1.0)
    some = SceneComposer(pack, "train", 256, close_ratio=0.3)
    plans = [close._plan(scene_rng(1, i)) for i in range(200)]
    assert {len(plan) for plan in plans} == {1, 2, 3}
    sides = [side / 256 for plan in plans for _, side in plan]
    assert min(sides) >= 0.35
    assert 0.9 < max(sides) <= 1.1
    crowded = [len(some._plan(scene_rng(1, i))) > 3 for i in range(600)]
    expected = 0.7 * 9 / 12  # plain scenes have 1 to 12 objects, each number as often
    assert abs(sum(crowded) / 600 - expected) < 0.06
    scene, again = close.compose(scene_rng(3, 0)), close.compose(scene_rng(3, 0))
    np.testing.assert_array_equal(scene.image, again.image)


def test_objects_get_the_relief_of_a_background(pack: Pack) -> None:
    """Their inside changes, their outline and mean colour stay, and other draws stay theirs."""
    composer = SceneComposer(pack, "train", 256, side_range=(0.5, 0.6), texture_ratio=1.0)
    rough, plain = 0, 0
    for i in range(30):
        patch = composer._patch(scene_rng(4, i), 0, 120.0)
        composer.texture_ratio = 0.0
        smooth = composer._patch(scene_rng(4, i), 0, 120.0)
        composer.texture_ratio = 1.0
        inside = patch[..., 3] == 255
        assert (patch[..., :3] <= patch[..., 3:]).all()
        rough += patch[inside][:, :3].std(0).mean()
        plain += smooth[smooth[..., 3] == 255][:, :3].std(0).mean()
    assert rough > 1.3 * plain
    small = composer._patch(scene_rng(5, 0), 0, 39.0)
    composer.texture_ratio = 0.0
    np.testing.assert_array_equal(small, composer._patch(scene_rng(5, 0), 0, 39.0))


def test_relief_keeps_outline_and_mean_colour() -> None:
    rng = np.random.default_rng(0)
    patch = np.zeros((64, 48, 4), np.uint8)
    patch[8:56, 6:42] = (90, 60, 120, 255)
    patch[56:60, 6:42] = (45, 30, 60, 128)  # premultiplied
    texture = rng.integers(0, 256, (64, 48, 3), dtype=np.uint8)
    woven = appearance.weave(rng, patch, texture)
    np.testing.assert_array_equal(woven[..., 3], patch[..., 3])
    assert not woven[patch[..., 3] == 0].any()
    inside = woven[8:56, 6:42, :3].reshape(-1, 3)
    assert inside.std(0).min() > 4
    np.testing.assert_allclose(inside.mean(0), (90, 60, 120), rtol=0.03)
    even = np.full_like(texture, 77)
    np.testing.assert_array_equal(appearance.weave(rng, patch, even), patch)


def test_names_are_drawn_evenly(pack: Pack) -> None:
    composer = SceneComposer(pack, "train", 64)
    drawn = [name for i in range(600) for name, _ in composer._plan(scene_rng(2, i))]
    shares = np.bincount(drawn, minlength=8) / len(drawn)
    assert shares[6:].sum() == 0  # the novel ones
    np.testing.assert_allclose(shares[:6], 1 / 6, atol=0.03)


def test_a_patch_has_the_wanted_length_whatever_is_in_store(pack: Pack) -> None:
    fresh, used = PatchSource(pack), PatchSource(pack, cache_bytes=1)
    for length in (13.0, 20.0, 40.0, 70.0, 150.0):
        for cutout in (3, 5, 3):
            patch = fresh.get(cutout, length)
            np.testing.assert_array_equal(patch, used.get(cutout, length))
            assert abs(max(patch.shape[:2]) - length) <= 1
            assert (patch[..., :3].max(-1) <= patch[..., 3]).all()  # premultiplied


def test_a_scene_depends_on_its_seed_and_number_alone(pack: Pack) -> None:
    first, second = (SceneComposer(pack, "train", 96) for _ in range(2))
    for index in (4, 2, 9):
        one = first.compose(scene_rng(7, index), expressions=True)
        other = second.compose(scene_rng(7, index), expressions=True)
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.masks, other.masks)
        assert one.expressions == other.expressions
    assert (first.compose(scene_rng(8, 4)).image != first.compose(scene_rng(7, 4)).image).any()


def test_splits_take_their_own_names_and_pictures(pack: Pack) -> None:
    for split, side in (("train", "base"), ("calib", "base"), ("val-novel", "novel")):
        composer = SceneComposer(pack, split, 64)
        allowed = set(pack.cutouts_for(split).tolist())
        assert {pack.name_split[i] for i in composer.name_ids} == {side}
        views = [v for groups in composer._choices.values() for group in groups for v in group]
        assert set(views) == allowed


def test_bad_arguments_are_named(pack: Pack, pack_path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"test.*train"):
        SceneComposer(pack, "test", 64)
    with pytest.raises(InputError, match="size 7"):
        SceneComposer(pack, "train", 7)
    with pytest.raises(InputError, match="count 0"):
        write_dataset(pack_path, "calib", 0, 64, 0, tmp_path / "a")
    with pytest.raises(InputError, match="seed -1"):
        write_dataset(pack_path, "calib", 1, 64, -1, tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InputError, match="not an empty folder"):
        write_dataset(pack_path, "calib", 1, 64, 0, tmp_path / "full")
    with pytest.raises(InputError, match="must be one of"):
        write_dataset(pack_path, "nowhere", 1, 64, 0, tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_a_data_set_loads_in_pycocotools(pack: Pack, pack_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    out.mkdir()  # an empty folder may be there
    write_dataset(pack_path, "val-novel", 6, 96, 3, out)
    coco = COCO(str(out / "annotations.json"))
    assert sorted(coco.imgs) == [1, 2, 3, 4, 5, 6]
    assert [c["name"] for c in coco.dataset["categories"]] == list(pack.names[6:])
    composer = SceneComposer(pack, "val-novel", 96)
    for image_id, image in coco.imgs.items():
        assert (out / "images" / image["file_name"]).is_file()
        scene = composer.compose(scene_rng(3, image_id - 1), expressions=True)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        for annotation, mask in zip(annotations, scene.masks, strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum()
            assert isinstance(annotation["segmentation"]["counts"], str)
    spoken = json.loads((out / "expressions.json").read_text("utf-8"))["expressions"]
    assert spoken
    assert all(coco.anns[e["annotation_id"]]["image_id"] == e["image_id"] for e in spoken)
    assert coco.dataset["info"]["composed"] is True
    assert coco.dataset["info"]["pack_sha256"] == pack.digest


def test_a_data_set_is_reproducible_and_whole_or_absent(
    pack_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = [write_dataset(pack_path, "calib", 4, 64, 1, tmp_path / n) for n in ("a", "b")]
    assert digests[0] == digests[1]
    for name in ("annotations.json", "expressions.json", "images/000003.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("stopped half-way")

    monkeypatch.setattr(SceneComposer, "compose", fail)
    with pytest.raises(RuntimeError):
        write_dataset(pack_path, "calib", 4, 64, 1, tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_link_is_followed(pack_path: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    write_dataset(pack_path, "calib", 2, 64, 1, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "annotations.json").is_file()
