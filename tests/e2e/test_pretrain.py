"""Pretraining a backbone on drawn shapes: it learns to name, and training starts from it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.shapes import write_shapes_pack

from mobius_seg.backbone import Backbone, load_pretrained
from mobius_seg.errors import InputError
from mobius_seg.presets import get_preset
from mobius_seg.train import pretrain as module
from mobius_seg.train.loop import train
from mobius_seg.train.pretrain import PretrainConfig, pretrain
from mobius_seg.train.settings import TrainConfig


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes_pack(tmp_path_factory.mktemp("pack") / "shapes.safetensors")


@pytest.fixture(scope="module")
def folder(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained")
    pretrain(settings(pack, out, minutes=0.12))
    return out


def settings(pack: Path, out: Path, **changes: Any) -> PretrainConfig:
    values: dict[str, Any] = {"preset": "mobius-test", "pack": pack, "out": out, "size": 64}
    values |= {"pretrained": False, "batch_size": 16, "lr": 2e-3}
    return PretrainConfig(**{**values, **changes})


def test_it_leaves_a_backbone_and_a_record(folder: Path) -> None:
    record = json.loads((folder / "pretraining.json").read_text())
    assert record["steps"] > 5
    assert record["images"] == 16 * record["steps"]
    assert record["start"] == "random"
    backbone = Backbone(get_preset("mobius-test"))
    load_pretrained(backbone, folder / "backbone.safetensors")
    stored = load_file(folder / "backbone.safetensors")
    for key, value in backbone.body.state_dict().items():
        assert torch.equal(value, stored[key])


def test_training_starts_from_it_and_says_so(folder: Path, pack: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {"preset": "mobius-test", "pack": pack, "steps": 1, "batch_size": 2}
    values |= {"sizes": ((0.0, 64),), "negatives": (2, 6), "expression_ratio": 0.0, "workers": 0}
    model = train(TrainConfig(out=tmp_path / "run", backbone=folder, freeze_stride=32, **values))
    trained = load_file(model / "model.safetensors")
    stored = load_file(folder / "backbone.safetensors")
    first = next(key for key, value in stored.items() if value.ndim == 4)
    assert torch.equal(trained[f"backbone.body.{first}"].half(), stored[first].half())
    record = json.loads((model / "training.json").read_text())
    assert record["start"] == "random"
    assert record["pretraining"]["images"] > 0


def test_it_learns_to_name(pack: Path, tmp_path: Path) -> None:
    config = settings(pack, tmp_path)
    torch.manual_seed(0)
    batches = module.CloseUpBatches(module.Pack.open(pack), config)
    batch = batches[0]
    assert batch.images_B3SS.shape == (16, 3, 64, 64)
    assert bool((batch.cover_BSS.sum((1, 2)) > 0).all())
    assert torch.equal(batches[0].images_B3SS, batch.images_B3SS)
    assert not torch.equal(batches[1].images_B3SS, batch.images_B3SS)
    names = len(set(batches.composer.name_ids.tolist()))
    assert int(batch.rows_B.max()) < names


def test_another_backbone_is_refused(folder: Path) -> None:
    backbone = Backbone(get_preset("mobius-n"))
    with pytest.raises(InputError, match="belongs to another backbone"):
        load_pretrained(backbone, folder / "backbone.safetensors")
    with pytest.raises(InputError, match="no backbone could be read"):
        load_pretrained(backbone, folder / "nothing.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": 0.0}, "minutes"),
        ({"minutes": float("nan")}, "minutes"),
        ({"size": 65}, "multiples of 32"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_settings(pack: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(pack, tmp_path, **changes)
