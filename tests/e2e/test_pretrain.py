"""Pretraining a backbone on drawn shapes: it learns to name, and training starts from it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.shapes import write_shapes_pack

from mobius_seg.checkpoint import load_model, save_model
from mobius_seg.data.pack import Pack
from mobius_seg.errors import InputError
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.train import pretrain as module
from mobius_seg.train.crowds import STAGES, CrowdBatches
from mobius_seg.train.loop import train
from mobius_seg.train.pretrain import load_pretrained, pretrain
from mobius_seg.train.pretrain_loop import NamesRun, _Namer
from mobius_seg.train.pretrain_settings import PretrainConfig
from mobius_seg.train.settings import TrainConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes_pack(tmp_path_factory.mktemp("pack") / "shapes.safetensors")


@pytest.fixture(scope="module")
def folder(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained")
    pretrain(settings(pack, out, steps=60))
    return out


def settings(pack: Path, out: Path, **changes: Any) -> PretrainConfig:
    values: dict[str, Any] = {"preset": "mobius-test", "pack": pack, "out": out, "size": 64}
    values |= {"pretrained": False, "batch_size": 4, "lr": 2e-3}
    return PretrainConfig(**{**values, **changes})


def test_it_leaves_a_backbone_and_a_record(folder: Path) -> None:
    record = json.loads((folder / "pretraining.json").read_text())
    assert record["steps"] == 60
    assert record["images"] > 4 * record["steps"]  # small pictures come in large batches
    assert record["objects"] >= record["images"]
    assert record["start"] == "random"
    network = Mobius(get_preset("mobius-test"))
    load_pretrained(network, folder / "backbone.safetensors")
    stored = load_file(folder / "backbone.safetensors")
    assert {key.split(".")[0] for key in stored} >= {"backbone", "name_map", "text_projection"}
    own = network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in stored.items())


def test_training_starts_from_it_and_says_so(folder: Path, pack: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {"preset": "mobius-test", "pack": pack, "steps": 1, "batch_size": 2}
    values |= {"sizes": ((0.0, 64),), "negatives": (2, 6), "expression_ratio": 0.0, "workers": 0}
    model = train(TrainConfig(out=tmp_path / "run", backbone=folder, freeze_stride=32, **values))
    trained = load_file(model / "model.safetensors")
    stored = load_file(folder / "backbone.safetensors")
    first = next(k for k, v in stored.items() if k.startswith("backbone.") and v.ndim == 4)
    assert torch.equal(trained[first].half(), stored[first].half())
    record = json.loads((model / "training.json").read_text())
    assert record["start"] == "random"
    assert record["pretraining"]["images"] > 0


def test_a_model_goes_on_learning_names(pack: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(get_preset("mobius-test"), name_stride=32)
    before = Mobius(config)
    save_model(before, tmp_path / "before", training={"steps": 7}, float16=False)
    out = pretrain(
        settings(pack, tmp_path / "out", pretrained=True, steps=4, weights=tmp_path / "before")
    )
    after = load_model(out)
    halves = {key: value.half() for key, value in before.state_dict().items()}
    changed = {
        key.split(".")[0]
        for key, now in after.state_dict().items()
        if not torch.equal(halves[key], now.half())
    }
    assert changed == {"backbone", "name_map"}
    record = json.loads((out / "training.json").read_text())
    assert record["previous"] == {"steps": 7}
    assert record["steps"] == 4
    assert record["hours"] >= 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"preset": "mobius-n"}, "holds mobius-test"),
        ({"out": "run"}, "holds a model already"),
        ({"pretrained": False}, "pretrained is False"),
        ({"precision": "fp16"}, "precision is 'fp16'; allowed: auto, fp32, bf16"),
    ],
)
def test_what_cannot_go_on(pack: Path, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    save_model(Mobius(get_preset("mobius-test")), tmp_path / "run" / "model")
    values = {"weights": tmp_path / "run" / "model", "pretrained": True, **changes}
    out = tmp_path / values.pop("out", "out")
    digest = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match=says):
        pretrain(settings(pack, out, **values))
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == digest


def test_a_batch_is_its_step(pack: Path, tmp_path: Path) -> None:
    batches = CrowdBatches(Pack.open(pack), settings(pack, tmp_path), STAGES[-1])
    batch = batches[0]
    assert batch.images_B3SS.shape == (4, 3, 64, 64)
    assert batch.cover_TN.shape == (len(batch.rows_T), 16)
    assert batch.picture_T.tolist() == sorted(batch.picture_T.tolist())
    cover_BN = torch.zeros(4, 16).index_add(0, batch.picture_T, batch.cover_TN)
    assert float(cover_BN.max()) <= 1 + 1e-6  # masks are disjoint
    assert bool((batch.cover_TN.sum(1) > 0).all())
    assert torch.equal(batches[0].images_B3SS, batch.images_B3SS)
    assert not torch.equal(batches[1].images_B3SS, batch.images_B3SS)


def test_covers_have_the_stride_of_the_name_map(pack: Path, tmp_path: Path) -> None:
    shown = []
    for preset in ("mobius-test", "mobius-m"):
        config = settings(pack, tmp_path, preset=preset)
        shown.append(CrowdBatches(Pack.open(pack), config, STAGES[-1])[0].cover_TN)
    fine_TN, coarse_TN = shown
    means_TN = fine_TN.view(-1, 2, 2, 2, 2).mean((2, 4)).flatten(1)
    torch.testing.assert_close(coarse_TN, means_TN)


def test_it_learns(pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny network from random weights: single shapes begin to be told apart."""
    monkeypatch.setattr(module, "STAGES", STAGES[:1])
    pretrain(settings(pack, tmp_path, steps=250, lr=3e-3))
    curve = json.loads((tmp_path / "pretraining.json").read_text())["curve"]
    assert [entry["objects"] > 0 for entry in curve] == [True] * 5
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]
    assert curve[-1]["top1"] > curve[0]["top1"] + 0.08


def test_a_stopped_run_goes_on_exactly(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in each of its stages, a run ends with the weights of one that was not."""
    whole = pretrain(settings(pack, tmp_path / "whole", steps=12))
    taken = NamesRun._train

    def stops(run: NamesRun, batch: Any) -> tuple[float, float]:
        run.stop = run.state["step"] in (3, 6, 10)
        return taken(run, batch)

    config = settings(pack, tmp_path / "parts", steps=12)
    with monkeypatch.context() as patched:
        patched.setattr(NamesRun, "_train", stops)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
        with pytest.raises(InputError, match="holds a run already"):
            pretrain(config)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                pretrain(dataclasses.replace(config, resume=True))
    with pytest.raises(InputError, match=r"begun with lr 0.002, not 0.001"):
        pretrain(dataclasses.replace(config, resume=True, lr=1e-3))
    again = pretrain(dataclasses.replace(config, resume=True))
    one, other = load_file(whole), load_file(again)
    assert all(torch.equal(one[key], other[key]) for key in one)
    records = [json.loads((p.parent / "pretraining.json").read_text()) for p in (whole, again)]
    assert records[0]["objects"] == records[1]["objects"]
    assert records[0]["steps"] == records[1]["steps"] == 12


def test_a_teacher_is_learnt_from(pack: Path, tmp_path: Path) -> None:
    """With the teacher alone (share 1) the student's answers come near its wrong ones."""
    torch.manual_seed(3)
    teacher = Mobius(dataclasses.replace(get_preset("mobius-test"), name_stride=32))
    names_KD = torch.from_numpy(Pack.open(pack).name_embeddings.astype("float32"))
    teacher.fit_text(names_KD)
    save_model(teacher, tmp_path / "teacher", training={"steps": 9}, float16=False)
    config = settings(pack, tmp_path / "out", steps=60)
    taught = dataclasses.replace(config, teacher=tmp_path / "teacher", teacher_share=1.0)
    agreement = []
    for number, each in enumerate((config, taught)):
        out = tmp_path / f"out-{number}"
        pretrain(dataclasses.replace(each, out=out))
        record = json.loads((out / "pretraining.json").read_text())
        assert record.get("teacher") == ({"steps": 9} if number else None)
        student = Mobius(get_preset("mobius-test"))
        load_pretrained(student, out / "backbone.safetensors")
        batch = CrowdBatches(Pack.open(pack), config, STAGES[0])[1000]
        theirs, told = (
            _Namer(network.eval(), names_KD[:6], half=False).cosines(batch).detach()
            for network in (load_model(tmp_path / "teacher"), student)
        )
        agreement.append(float((theirs * told).sum(1).mean()))
    assert agreement[1] > agreement[0]


def test_a_teacher_without_a_name_map_is_refused(pack: Path, tmp_path: Path) -> None:
    network = Mobius(dataclasses.replace(get_preset("mobius-test"), name_map=False))
    save_model(network, tmp_path / "teacher")
    with pytest.raises(InputError, match="has no name map to learn from"):
        pretrain(settings(pack, tmp_path / "out", steps=1, teacher=tmp_path / "teacher"))


def test_there_is_nothing_to_resume(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        pretrain(settings(pack, tmp_path / "new", steps=2, resume=True))


def test_another_network_is_refused(folder: Path) -> None:
    network = Mobius(get_preset("mobius-p"))
    with pytest.raises(InputError, match="belongs to another preset"):
        load_pretrained(network, folder / "backbone.safetensors")
    with pytest.raises(InputError, match="no backbone could be read"):
        load_pretrained(network, folder / "nothing.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minutes": 0.0}, "minutes"),
        ({"steps": 0}, "steps"),
        ({"minutes": float("nan")}, "minutes"),
        ({"size": 65}, "multiples of 32"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"teacher_share": 1.5}, "teacher_share is 1.5; allowed: above 0 up to 1"),
        ({"teacher_share": 0.5}, "without a teacher"),
    ],
)
def test_bad_settings(pack: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(pack, tmp_path, **changes)
