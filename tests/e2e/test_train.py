"""Training from end to end on drawn shapes: it learns, resumes exactly and stores what it says."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.runs import settings, stop_at, weights
from tests.support.shapes import write_shapes_pack

from mobius_seg.checkpoint import load_model
from mobius_seg.errors import InputError
from mobius_seg.loss_config import FIRST_LOSS, LossConfig
from mobius_seg.train.batches import StepBatches
from mobius_seg.train.loop import train


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes_pack(tmp_path_factory.mktemp("pack") / "shapes.safetensors")


def test_run_stores_model_record_log_and_curve(pack: Path, tmp_path: Path) -> None:
    folder = train(settings(pack, tmp_path / "run"))
    record = json.loads((folder / "training.json").read_text())
    assert record["steps"] == 6
    assert record["images"] == 12
    assert record["assets"][0]["licence"] == "CC0-1.0"
    assert record["seed"] == 0
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]
    assert (tmp_path / "run" / "curve.png").stat().st_size > 1000
    network = load_model(folder)
    assert network.config.name == "mobius-test"


@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_run_is_the_same_run(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    whole = train(settings(pack, tmp_path / "whole", sizes=((0.0, 64), (0.5, 96))))
    parted = settings(pack, tmp_path / "parted", sizes=((0.0, 64), (0.5, 96)), workers=workers)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(parted)
    resumed = train(
        settings(
            pack, tmp_path / "parted", sizes=((0.0, 64), (0.5, 96)), workers=workers, resume=True
        )
    )
    first, second = weights(whole), weights(resumed)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    lines = (tmp_path / "parted" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]


def in_update(patch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> list[int]:
    """Do something in the middle of a step; returns the steps taken, as they are."""
    update = torch.optim.AdamW.step
    taken: list[int] = []

    def updated(self: torch.optim.AdamW, *args: Any) -> Any:
        result = update(self, *args)
        taken.append(len(taken) + 1)
        if len(taken) == number:
            act()
        return result

    patch.setattr(torch.optim.AdamW, "step", updated)
    return taken


def test_a_signal_ends_the_run_between_steps(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(settings(pack, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        taken = in_update(patch, 2, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt):
            train(settings(pack, tmp_path / "parted"))
    assert len(taken) == 2
    resumed = train(settings(pack, tmp_path / "parted", resume=True))
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_second_signal_stores_nothing(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an update the weights belong to no step."""

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    in_update(monkeypatch, 3, twice)
    with pytest.raises(KeyboardInterrupt):
        train(settings(pack, tmp_path / "run", checkpoint_minutes=1e-9))
    latest = json.loads((tmp_path / "run" / "checkpoints" / "latest.json").read_text())
    assert latest == {"checkpoint": "step-00000002"}


def test_names_are_asked_in_other_words(pack: Path, tmp_path: Path) -> None:
    plain = StepBatches(settings(pack, tmp_path))
    other = StepBatches(settings(pack, tmp_path, wording_ratio=1.0, close_ratio=1.0))
    assert plain.vocabulary.other is None
    assert other.vocabulary.other is not None
    known = plain.vocabulary.embeddings_KD
    cosines = [(batches[0].prompt.pooled_BKD[0] @ known.T).amax(1) for batches in (plain, other)]
    assert float(cosines[0].min()) > 0.999
    assert float(cosines[1].max()) < 0.999
    most = [max(len(t.boxes_M4) for i in range(8) for t in b[i].targets) for b in (plain, other)]
    assert most[0] > 3 >= most[1]
    with pytest.raises(InputError, match=r"wording_ratio is 0\.5; allowed with mobius-test"):
        StepBatches(settings(pack, tmp_path, wording_ratio=0.5, overrides={"fuse_subwords": True}))


@pytest.mark.slow
def test_a_signal_to_all_processes_leaves_a_checkpoint(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaders: list[int] = []

    def to_all() -> None:
        for loader in multiprocessing.active_children():
            assert loader.pid is not None
            os.kill(loader.pid, signal.SIGTERM)
            os.kill(loader.pid, signal.SIGINT)
            loaders.append(loader.pid)
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.2)

    in_update(monkeypatch, 2, to_all)
    with pytest.raises(KeyboardInterrupt):
        train(settings(pack, tmp_path / "run", workers=1, steps=40))
    assert loaders
    latest = json.loads((tmp_path / "run" / "checkpoints" / "latest.json").read_text())
    assert latest == {"checkpoint": "step-00000002"}
    assert multiprocessing.active_children() == []


def test_a_batch_is_shared_evenly(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="multiples of 3"):
        StepBatches(settings(pack, tmp_path, batch_size=16), rank=0, world=3)


@pytest.mark.slow
def test_seed_changes_the_run(pack: Path, tmp_path: Path) -> None:
    first = weights(train(settings(pack, tmp_path / "a", steps=2)))
    same = weights(train(settings(pack, tmp_path / "b", steps=2)))
    other = weights(train(settings(pack, tmp_path / "c", steps=2, seed=1)))
    name = "decoder.heads.classifier.embed.weight"
    assert torch.equal(first[name], same[name])
    assert not torch.equal(first[name], other[name])


def test_second_run_does_not_overwrite_the_first(pack: Path, tmp_path: Path) -> None:
    train(settings(pack, tmp_path / "run", steps=1))
    with pytest.raises(InputError, match="--resume"):
        train(settings(pack, tmp_path / "run", steps=1))


def test_resume_without_checkpoint(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        train(settings(pack, tmp_path / "run", resume=True))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"preset": "mobius-p"}, "preset"),
        ({"seed": 5}, "seed"),
        ({"batch_size": 4}, "batch_size"),
        ({"loss": LossConfig(class_loss="focal")}, r"loss\.class_loss 'varifocal', not 'focal'"),
        ({"overrides": {"uncertainty_head": True}}, r"overrides\.uncertainty_head None, not True"),
    ],
)
def test_another_run_is_not_resumed(
    pack: Path, tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    train(settings(pack, tmp_path / "run", steps=1))
    with pytest.raises(InputError, match=f"was begun with {field}"):
        train(settings(pack, tmp_path / "run", steps=2, resume=True, **changes))


@pytest.mark.slow
def test_switches_are_trained_with_recorded_and_resumed(pack: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "loss": LossConfig(class_loss="varifocal", calibration_target="final"),
        "overrides": {"uncertainty_head": True, "bottleneck_stride": 16, "token_strides": (8,)},
    }
    train(settings(pack, tmp_path / "run", steps=2, **changes))
    folder = train(settings(pack, tmp_path / "run", steps=4, resume=True, **changes))
    config = load_model(folder).config
    assert (config.uncertainty_head, config.bottleneck_stride) == (True, 16)
    assert "uncertainty" in json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[0])
    run = json.loads((tmp_path / "run/run.json").read_text())
    recorded = json.loads((folder / "training.json").read_text())["settings"]
    for place in (run, recorded):
        assert place["loss"]["class_loss"] == "varifocal"
        assert place["loss"]["calibration_target"] == "final"
        assert place["overrides"]["token_strides"] == [8]
    with pytest.raises(InputError, match=r"overrides\.bottleneck_stride 16, not None"):
        train(settings(pack, tmp_path / "run", steps=6, resume=True, loss=changes["loss"]))


@pytest.mark.slow
def test_the_loss_of_the_run_is_the_one_asked_for(pack: Path, tmp_path: Path) -> None:
    first = weights(train(settings(pack, tmp_path / "a", steps=2)))
    other = weights(
        train(settings(pack, tmp_path / "b", steps=2, loss=LossConfig(class_loss="focal")))
    )
    name = "decoder.heads.classifier.embed.weight"
    assert not torch.equal(first[name], other[name])


def test_a_run_from_before_the_switches_goes_on(pack: Path, tmp_path: Path) -> None:
    train(settings(pack, tmp_path / "run", steps=1, loss=FIRST_LOSS))
    file = tmp_path / "run" / "run.json"
    stored = json.loads(file.read_text())
    del stored["loss"], stored["overrides"]
    file.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"begun with loss\.class_loss 'mal', not 'varifocal'"):
        train(settings(pack, tmp_path / "run", steps=2, resume=True))
    train(settings(pack, tmp_path / "run", steps=2, resume=True, loss=FIRST_LOSS))


def test_torn_checkpoint_is_named(pack: Path, tmp_path: Path) -> None:
    train(settings(pack, tmp_path / "run", steps=1))
    folder = next((tmp_path / "run" / "checkpoints").glob("step-*"))
    data = (folder / "network.safetensors").read_bytes()
    (folder / "network.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cannot be resumed"):
        train(settings(pack, tmp_path / "run", steps=2, resume=True))


def test_fine_tuning_starts_from_given_weights(pack: Path, tmp_path: Path) -> None:
    first = train(settings(pack, tmp_path / "a", steps=1))
    tuned = train(settings(pack, tmp_path / "b", steps=1, lr=1e-9, backbone_lr=1e-9, weights=first))
    before, after = weights(first), weights(tuned)
    name = "decoder.heads.classifier.embed.weight"
    assert torch.allclose(before[name].float(), after[name].float(), atol=1e-3)
    assert json.loads((tuned / "training.json").read_text())["start"] == "model"


@pytest.mark.slow
def test_it_learns(pack: Path, tmp_path: Path) -> None:
    changes = {"steps": 240, "batch_size": 8, "lr": 3e-3, "backbone_lr": 3e-3, "log_steps": 5}
    train(settings(pack, tmp_path / "run", prefix_ratio=0.0, drop_ratio=0.0, **changes))
    text = (tmp_path / "run" / "log.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    first, last = lines[:8], lines[-8:]

    def mean(part: list[dict[str, float]], key: str) -> float:
        return sum(line[key] for line in part) / len(part)

    assert mean(last, "box") < 0.75 * mean(first, "box")  # 0.68 when written
    assert mean(last, "dice") < 0.88 * mean(first, "dice")  # 0.82
    assert mean(last, "quality") > 3 * mean(first, "quality")  # 5.8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, "steps or minutes"),
        ({"minutes": 1.0}, "steps or minutes"),
        ({"batch_size": 0}, "batch_size"),
        ({"sizes": ((0.0, 100),)}, "multiples of 32"),
        ({"sizes": ((0.5, 64),)}, "the first 0"),
        ({"steps": None, "minutes": 1.0, "sizes": ((0.0, 64), (0.5, 96))}, "needs steps"),
        ({"expression_ratio": 0.7, "agnostic_ratio": 0.7}, "above 1"),
        ({"annotations": Path("a.json")}, "go together"),
        ({"preset": "mobius-x"}, "mobius-n"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"threads": 10**9}, "threads"),
        ({"negatives": (5, 1)}, "negatives"),
        ({"negatives": (-1, 5)}, "negatives"),
        ({"lr": float("inf")}, "lr"),
        ({"checkpoint_minutes": float("nan")}, "checkpoint_minutes"),
        ({"ema": 1.0}, "ema"),
    ],
)
def test_bad_settings(pack: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(settings(pack, tmp_path / "run", **changes))


@pytest.mark.slow
def test_copies_are_kept_by_steps(pack: Path, tmp_path: Path) -> None:
    model = train(settings(pack, tmp_path / "run", snapshot_steps=3))
    kept = sorted((tmp_path / "run" / "snapshots").iterdir())
    assert [folder.name for folder in kept] == ["step-00000003", "step-00000006"]
    early, late, end = weights(kept[0]), weights(kept[1]), weights(model)
    assert all(torch.equal(value, late[name]) for name, value in end.items())
    assert any(not torch.equal(value, early[name]) for name, value in end.items())
