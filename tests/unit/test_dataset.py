"""Composed samples: modes, determinism, padding, use by loader processes."""

import pickle

import cv2
import pytest
import torch
from tests.support.shapes import write_shapes_pack

from mobius_seg.data.compose import scene_rng
from mobius_seg.data.dataset import PADDING, ComposedSamples
from mobius_seg.data.pack import Pack
from mobius_seg.data.scenes import SceneComposer
from mobius_seg.errors import InputError


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    path = tmp_path_factory.mktemp("pack") / "shapes.safetensors"
    return Pack.open(write_shapes_pack(path))


def test_a_sample_is_complete(pack: Pack) -> None:
    samples = ComposedSamples(pack, size=64, names_ratio=1, expression_ratio=0, agnostic_ratio=0)
    for i in range(10):
        sample = samples[i]
        assert sample.image.shape == (3, 64, 64)
        assert sample.image.dtype == torch.uint8
        assert sample.masks is not None
        assert sample.masks.dtype == torch.bool
        assert sample.names is not None
        assert len(sample.names) == len(sample.masks) == len(sample.boxes_xyxy) >= 1
        assert sample.expression is None
        assert sample.exhaustive


def test_modes_come_in_the_wanted_shares(pack: Pack) -> None:
    samples = ComposedSamples(
        pack, size=64, names_ratio=2, expression_ratio=1, agnostic_ratio=1, letterbox=0.5
    )
    drawn = [samples[i] for i in range(200)]
    spoken = [s for s in drawn if s.expression is not None]
    assert 25 <= len(spoken) <= 75
    for sample in spoken:
        assert len(sample.referred) == 1
        assert sample.referred[0] < len(sample.boxes_xyxy)
    assert 30 <= sum(s.names is None for s in drawn) <= 70


def test_equal_indices_give_equal_samples_in_any_process(pack: Pack) -> None:
    samples = ComposedSamples(pack, size=64, seed=3, letterbox=0.5)
    again = pickle.loads(pickle.dumps(samples))
    for i in (8, 1, 30):
        one, other = samples[i], again[i]
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.boxes_xyxy, other.boxes_xyxy)
        assert (one.names, one.expression) == (other.names, other.expression)
    assert not torch.equal(samples[8].image, ComposedSamples(pack, size=64, seed=4)[8].image)


def test_padding_is_grey_and_holds_no_object(pack: Pack) -> None:
    samples = ComposedSamples(
        pack, size=64, names_ratio=1, expression_ratio=0, agnostic_ratio=0, letterbox=1
    )
    for i in range(20):
        sample = samples[i]
        assert sample.masks is not None
        corner = sample.image[:, -1, -1]
        assert (corner == PADDING).all()
        grey = (sample.image == PADDING).all(0)
        rows, columns = grey.all(1), grey.all(0)
        assert rows.any() or columns.any()
        assert not sample.masks[:, rows].any()
        assert not sample.masks[:, :, columns].any()
        assert sample.names is not None
        assert len(sample.names) == len(sample.masks) >= 1


@pytest.mark.parametrize(
    "wrong",
    [{"names_ratio": -1}, {"names_ratio": 0, "expression_ratio": 0, "agnostic_ratio": 0}],
)
def test_bad_ratios_are_refused(pack: Pack, wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="ratios"):
        ComposedSamples(pack, **wrong)
    with pytest.raises(InputError, match="letterbox"):
        ComposedSamples(pack, letterbox=2)


def test_scenes_are_enlarged_with_their_masks(pack: Pack) -> None:
    larger = ComposedSamples(pack, size=64, seed=3, enlarge=1.0)
    for i in range(6):
        sample = larger[i]
        assert sample.image.shape == (3, 64, 64)
        assert sample.masks is not None
        assert sample.masks.shape[1:] == (64, 64)
        assert bool((sample.masks.sum(0) <= 1).all())  # still disjoint
        assert bool((sample.masks.flatten(1).any(1)).all())
        x1 = sample.masks.any(1).int().cumsum(1).argmax(1) + 1
        assert sample.boxes_xyxy[:, 2].int().tolist() == x1.tolist()
    rng = scene_rng(3, 2)
    rng.random(2)  # the mode, and whether to enlarge
    small = SceneComposer(pack, "train", 40).compose(rng)
    wanted = cv2.resize(small.image, (64, 64), interpolation=cv2.INTER_LINEAR)
    sample = ComposedSamples(
        pack, size=64, seed=3, names_ratio=1, expression_ratio=0, agnostic_ratio=0, enlarge=1.0
    )[2]
    assert torch.equal(sample.image, torch.from_numpy(wanted).permute(2, 0, 1))


def test_objects_may_get_texture(pack: Pack) -> None:
    """The composers of both sizes are told."""
    plain, woven = (
        ComposedSamples(pack, size=256, seed=3, enlarge=0.5, texture=t) for t in (0, 1.0)
    )
    assert (plain.composer.texture_ratio, plain._small.texture_ratio) == (0, 0)
    assert (woven.composer.texture_ratio, woven._small.texture_ratio) == (1.0, 1.0)
    assert any(not torch.equal(plain[i].image, woven[i].image) for i in range(4))
    with pytest.raises(InputError, match="texture"):
        ComposedSamples(pack, texture=-0.5)


def test_a_share_to_enlarge_out_of_range_is_refused(pack: Pack) -> None:
    with pytest.raises(InputError, match="enlarge"):
        ComposedSamples(pack, enlarge=1.5)
