"""Packs of fewer names: the same pictures under the same names, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
from tests.support.shapes import SHAPES, write_shapes_pack

from mobius_seg.data.compose import SceneComposer, scene_rng
from mobius_seg.data.pack import Pack
from mobius_seg.data.subset import frequent_names, restrict_pack
from mobius_seg.errors import InputError


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes_pack(tmp_path_factory.mktemp("pack") / "shapes.safetensors")


def test_pictures_names_and_vectors_belong_together(full: Path, tmp_path: Path) -> None:
    wanted = (SHAPES[4], SHAPES[1])
    pack = Pack.open(full)
    few = Pack.open(restrict_pack(full, wanted, tmp_path / "few.safetensors"))
    assert few.names == (SHAPES[1], SHAPES[4])
    assert few.name_split == ("base", "base")
    old = [i for i in range(len(pack)) if pack.names[pack.cutout_name[i]] in wanted]
    assert len(few) == len(old) == 8
    for new, before in enumerate(old):
        assert few.names[few.cutout_name[new]] == pack.names[pack.cutout_name[before]]
        np.testing.assert_array_equal(few.cutout(new), pack.cutout(before))
        assert few.colour(new) == pack.colour(before)
        assert few.cutout_split[new] == pack.cutout_split[before]
    for new, before in enumerate((1, 4)):
        np.testing.assert_array_equal(few.name_embeddings[new], pack.name_embeddings[before])
    assert few.backgrounds_for("val-base").tolist() == pack.backgrounds_for("val-base").tolist()
    np.testing.assert_array_equal(few.background(5), pack.background(5))


@pytest.mark.parametrize("split", ["train", "calib", "val-base"])
def test_scenes_hold_only_these_names(full: Path, tmp_path: Path, split: str) -> None:
    few = Pack.open(restrict_pack(full, SHAPES[1:3], tmp_path / "few.safetensors"))
    scene = SceneComposer(few, split, 64).compose(scene_rng(0, 0))
    assert {few.names[i] for i in scene.name_ids} <= set(SHAPES[1:3])


def test_frequent_names_are_those_with_the_most_objects_to_train_on(full: Path) -> None:
    pack = Pack.open(full)
    # Rows 0, 2 and 4 have four objects in train, rows 1, 3 and 5 two; 6 and 7 are novel.
    assert frequent_names(pack, 4) == (SHAPES[0], SHAPES[2], SHAPES[4], SHAPES[1])
    with pytest.raises(InputError, match="1 to 6"):
        frequent_names(pack, 7)


def test_what_cannot_be_kept_is_named(full: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no name 'zebra'"):
        restrict_pack(full, ["zebra"], tmp_path / "few.safetensors")
    with pytest.raises(InputError, match="keep no name"):
        restrict_pack(full, [], tmp_path / "few.safetensors")
    assert not (tmp_path / "few.safetensors").exists()
