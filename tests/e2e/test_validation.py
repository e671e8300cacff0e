"""Runs that are judged on the way and keep their best weights."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.runs import settings, stop_at, weights
from tests.support.shapes import write_shapes_pack

from mobius_seg.checkpoint import load_model
from mobius_seg.cli import main
from mobius_seg.data.compose import write_dataset
from mobius_seg.errors import InputError
from mobius_seg.train import validation as module
from mobius_seg.train.loop import Run, train
from mobius_seg.train.validation import Validator
from mobius_seg.train.validation_settings import Validation


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes_pack(tmp_path_factory.mktemp("pack") / "shapes.safetensors")


@pytest.fixture(scope="module")
def data(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("val") / "val"
    write_dataset(pack, "val-base", 4, 64, 0, folder)
    return folder


def judged_on(data: Path, **changes: Any) -> Validation:
    values: dict[str, Any] = {"steps": 2, "limit": 3, **changes}
    return Validation(annotations=data / "annotations.json", images=data / "images", **values)


def scores(monkeypatch: pytest.MonkeyPatch, *values: float | None) -> None:
    """Give these figures out, one a judgement, in place of scoring."""
    left = list(values)

    def evaluate(*_: Any, **__: Any) -> dict[str, float | None]:
        return {"mask_ap": left.pop(0), "conditions": None}

    monkeypatch.setattr(module, "evaluate", evaluate)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_is_judged_as_eval_judges(
    pack: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    model = train(settings(pack, out, steps=5, validation=judged_on(data)))
    lines = lines_of(out)
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert "val mask_ap" in capsys.readouterr().out
    found = tmp_path / "figures.json"
    arguments = ["--annotations", data / "annotations.json", "--images", data / "images"]
    arguments += ["--limit", "3", "--out", found]
    assert main(["eval", "--model", str(model), *map(str, arguments)]) == 0
    figures = json.loads(found.read_text())
    for key in ("mask_ap", "agnostic_ar100"):  # weights are stored in half precision
        assert lines[-1][key] == pytest.approx(figures[key], abs=0.02)
    record = json.loads((model / "training.json").read_text())
    assert record["validation"] == lines
    assert load_model(out / "best").config.name == "mobius-test"


def test_the_best_weights_are_kept(
    pack: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores(monkeypatch, None, 0.4, 0.4, 0.3)
    out = tmp_path / "run"
    model = train(
        settings(pack, out, steps=8, snapshot_steps=6, validation=judged_on(data), lr=1e-2)
    )
    lines = lines_of(out)
    assert [line["mask_ap"] for line in lines] == [None, 0.4, 0.4, 0.3]
    assert [line["best"] for line in lines] == [False, True, True, False]
    best, third, last = (
        weights(out / "best"),
        weights(out / "snapshots/step-00000006"),
        weights(model),
    )
    assert all(bool((best[key] == value).all()) for key, value in third.items())
    assert any(bool((best[key] != value).any()) for key, value in last.items())


def test_a_run_goes_on_with_its_judgements(
    pack: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those after the checkpoint that it goes on from are forgotten and made anew."""
    scores(monkeypatch, 0.5, 0.1, 0.2, 0.3)
    out = tmp_path / "run"
    values = {"steps": 6, "validation": judged_on(data)}
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(settings(pack, out, **values))
    later = {"step": 4, "mask_ap": 0.9, "best": True}
    with (out / "validation.jsonl").open("a") as file:
        file.write(json.dumps(later) + "\n")
    train(settings(pack, out, resume=True, **values))
    assert [(line["step"], line["mask_ap"]) for line in lines_of(out)] == [
        (2, 0.5), (4, 0.1), (6, 0.2),
    ]  # fmt: skip
    assert [line["best"] for line in lines_of(out)] == [True, False, False]


def test_what_cannot_be_judged_on_is_refused_before_training(
    pack: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    nowhere = Validation(annotations=data / "annotations.json", images=tmp_path)
    with pytest.raises(InputError, match="no picture"):
        train(settings(pack, out, validation=nowhere))
    assert not (out / "checkpoints").exists()
    empty = json.loads((data / "annotations.json").read_text())
    empty["annotations"] = []
    (tmp_path / "empty.json").write_text(json.dumps(empty))
    nothing = Validation(annotations=tmp_path / "empty.json", images=data / "images")
    with pytest.raises(InputError, match=r"empty.json: the pictures to judge on hold no object"):
        Validator(nothing, tmp_path)
    with pytest.raises(InputError, match=r"Validation.steps is 0; allowed: 1 or more"):
        judged_on(data, steps=0)
    with pytest.raises(InputError, match=r"Validation.limit is True"):
        judged_on(data, limit=True)
    run = ["train", "--preset", "mobius-test", "--out", str(out), "--steps", "1"]
    assert main([*run, "--val-steps", "5"]) == 2
    assert "--val-annotations FILE and --val-images DIR go together" in capsys.readouterr().err


def test_a_judgement_is_made_once(data: Path, tmp_path: Path) -> None:
    validator = Validator(judged_on(data), tmp_path)
    assert validator.due(2)
    assert not validator.due(3)
    assert validator.due(3, last=True)
    validator.last = 4
    assert not validator.due(4, last=True)
    assert validator.best is None


def test_every_process_knows_what_was_judged(
    pack: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that do not judge wait for the one that does, as often as it does."""
    scores(monkeypatch, 0.1, 0.2, 0.3)
    run = Run(settings(pack, tmp_path / "run", steps=4, validation=judged_on(data)))
    waits: list[int] = []
    monkeypatch.setattr(run.accelerator, "wait_for_everyone", lambda: waits.append(1))
    monkeypatch.setattr(type(run.accelerator), "is_main_process", False)
    run.go()
    assert run.validator is not None
    assert run.validator.lines == []
    assert not run.validator.due(4, last=True)
    assert len(waits) == 2
