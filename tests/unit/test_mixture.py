"""Mixtures and recipes: what is drawn from where, what each sample says, what files may hold."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.shapes import write_shapes_pack

from mobius_seg.cli_options import build_parser
from mobius_seg.data.compose import write_dataset
from mobius_seg.data.sample import Sample, Vocabulary, collate
from mobius_seg.errors import InputError
from mobius_seg.train.batches import StepBatches
from mobius_seg.train.command import train_config
from mobius_seg.train.draw import Draw
from mobius_seg.train.mixture import BLOCK, Source, parse_sources, read_mixture
from mobius_seg.train.recipe import Recipe, Stage, read_recipe
from mobius_seg.train.settings import TrainConfig
from mobius_seg.train.sources import Sources

SIZE = 64


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes_pack(tmp_path_factory.mktemp("pack") / "shapes.safetensors")


@pytest.fixture(scope="module")
def coco(pack: Path) -> dict[str, Path]:
    folder = pack.parent / "coco"
    write_dataset(pack, "train", 6, SIZE, 5, folder)
    return {"annotations": folder / "annotations.json", "images": folder / "images"}


@pytest.fixture(scope="module")
def federated(coco: dict[str, Path]) -> dict[str, Path]:
    """The same pictures, known for three of the names only; one name is stated to be absent."""
    data = json.loads(coco["annotations"].read_text())
    kept = {category["id"] for category in data["categories"][:3]}
    data["categories"] = data["categories"][:3]
    data["annotations"] = [a for a in data["annotations"] if a["category_id"] in kept]
    for image in data["images"]:
        there = {a["category_id"] for a in data["annotations"] if a["image_id"] == image["id"]}
        image["neg_category_ids"] = sorted(kept - there)[:1]
    file = coco["annotations"].with_name("federated.json")
    file.write_text(json.dumps(data))
    return {"annotations": file, "images": coco["images"]}


def first(sources: list[Source], pack: Path) -> tuple[Sample, Vocabulary]:
    opened = Sources(sources, pack, subwords=False)
    return opened.samples(sources[:1], SIZE, 0)[0], opened.vocabulary


# --- which source a sample comes from ------------------------------------------------------------


def test_sources_come_as_often_as_their_ratios_say() -> None:
    draw = Draw([Source(kind="composed", ratio=r) for r in (6, 3, 1)], seed=4)
    drawn = [draw.at(i) for i in range(2 * BLOCK)]
    assert Counter(source for source, _ in drawn) == {0: 1200, 1: 600, 2: 200}
    for source in range(3):  # its own samples in turn, none twice, none left out
        own = [index for number, index in drawn if number == source]
        assert own == list(range(len(own)))
    mixed = [source for source, _ in drawn[:20]]
    assert len(set(mixed)) > 1


def test_a_draw_depends_on_seed_and_index_alone() -> None:
    sources = [Source(kind="composed"), Source(kind="composed")]
    forward = [Draw(sources, 1).at(i) for i in range(3 * BLOCK)]
    draw = Draw(sources, 1)
    assert [draw.at(i) for i in reversed(range(3 * BLOCK))][::-1] == forward
    assert [Draw(sources, 2).at(i) for i in range(50)] != forward[:50]


def test_a_source_that_would_never_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match=r"source 2 has ratio 0\.0001"):
        parse_sources([{"kind": "composed"}, {"kind": "composed", "ratio": 1e-4}], Path(), "m.json")


# --- what a sample says --------------------------------------------------------------------------


def test_supervision_leaves_out_what_it_does_not_tell(pack: Path, coco: dict[str, Path]) -> None:
    for origin in ({"kind": "composed"}, {"kind": "coco", **coco}):
        told: dict[str, Sample] = {}
        for supervision in ("masks", "boxes", "agnostic"):
            source = Source(supervision=supervision, **origin)
            told[supervision], _ = first([source], pack)
        masks, boxes, agnostic = told["masks"], told["boxes"], told["agnostic"]
        assert masks.masks is not None
        assert masks.names is not None
        assert (boxes.masks, boxes.names) == (None, masks.names)
        assert torch.equal(boxes.boxes_xyxy, masks.boxes_xyxy)
        assert (agnostic.names, agnostic.absent) == (None, ())
        assert agnostic.masks is not None
        assert all(s.exhaustive and s.every_object for s in told.values())


def test_expressions_of_both_kinds_mean_an_instance(
    pack: Path, coco: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobius_seg.train.sources.MiniLMEncoder", lambda: None)
    for origin in ({"kind": "composed"}, {"kind": "coco", **coco}):
        sources = [Source(supervision="expressions", **origin)]
        samples = Sources(sources, pack, subwords=False).samples(sources, SIZE, 0)
        spoken = [s for s in (samples[i] for i in range(12)) if s.expression is not None]
        assert len({s.expression for s in spoken}) > 2
        assert all(len(s.referred) == 1 and s.referred[0] < len(s.boxes_xyxy) for s in spoken)


def test_an_expression_of_a_file_means_its_annotation(
    pack: Path, coco: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobius_seg.train.sources.MiniLMEncoder", lambda: None)
    sources = [Source(kind="coco", supervision="expressions", **coco)]
    samples = Sources(sources, pack, subwords=False).samples(sources, SIZE, 0)
    stored = json.loads(coco["annotations"].with_name("expressions.json").read_text())
    boxes = {a["id"]: a["bbox"] for a in json.loads(coco["annotations"].read_text())["annotations"]}
    wanted: dict[str, list[list[float]]] = {}
    for entry in stored["expressions"]:
        wanted.setdefault(entry["text"], []).append(boxes[entry["annotation_id"]])
    count = len(stored["expressions"])
    seen = Counter(samples[i].expression for i in range(count))
    assert seen == Counter(entry["text"] for entry in stored["expressions"])  # one pass, each once
    for i in range(count):
        sample = samples[i]
        x0, y0, x1, y1 = sample.boxes_xyxy[sample.referred[0]].tolist()
        assert [x0, y0, x1 - x0, y1 - y0] in wanted[str(sample.expression)]


def test_federated_names_are_known_where_stated(
    pack: Path, coco: dict[str, Path], federated: dict[str, Path]
) -> None:
    stated, _ = first([Source(kind="coco", **federated)], pack)
    assert not stated.exhaustive
    assert len(stated.absent) <= 1
    vouched, _ = first([Source(kind="coco", names="exhaustive", **federated)], pack)
    assert (vouched.exhaustive, vouched.absent) == (True, ())
    for origin in ({"kind": "composed"}, {"kind": "coco", **coco}):
        sources = [Source(names="federated", **origin)]
        samples = Sources(sources, pack, subwords=False).samples(sources, SIZE, 0)
        made = [samples[i] for i in range(8)]
        assert not any(sample.exhaustive for sample in made)
        assert any(sample.absent for sample in made)
        assert not any(set(s.absent) & set(s.names or ()) for s in made)


def test_a_source_knows_nothing_about_names_it_never_looked_for(
    pack: Path, federated: dict[str, Path]
) -> None:
    """Three names searched in the file, six in the mixture: the others are no negatives there."""
    small = Source(kind="coco", names="exhaustive", **federated)
    sample, vocabulary = first([small, Source(kind="composed")], pack)
    assert len(vocabulary.names) == 6
    assert sample.searched is not None
    assert len(sample.searched) == 3
    rng = np.random.default_rng(0)
    batch = collate([sample], vocabulary, rng, (6, 6))
    assert int(batch.targets[0].known_K.sum()) == 3
    assert not batch.targets[0].has_object  # objects of the other names may be there
    alone, _ = first([small], pack)
    assert alone.searched is None
    assert alone.every_object
    scene, _ = first([Source(kind="composed"), small], pack)
    assert scene.searched is None  # the pack's names are the mixture's
    assert collate([scene], vocabulary, rng, (6, 6)).targets[0].has_object


def test_names_of_a_file_that_the_pack_lacks_are_added(
    pack: Path, coco: dict[str, Path], tmp_path: Path
) -> None:
    data = json.loads(coco["annotations"].read_text())
    data["categories"][0]["name"] = "teapot"
    file = tmp_path / "named.json"
    file.write_text(json.dumps(data))
    sources = [
        Source(kind="composed"),
        Source(kind="coco", annotations=file, images=coco["images"]),
    ]
    opened = Sources(sources, pack, subwords=False)
    assert opened.vocabulary.names[-1] == "teapot"
    assert len(opened.vocabulary.names) == 7
    assert opened.samples(sources[:1], SIZE, 0)[0].searched == frozenset(
        opened.vocabulary.names[:-1]
    )
    both = opened.samples(sources, SIZE, 0)
    collate([both[i] for i in range(4)], opened.vocabulary, np.random.default_rng(0), (1, 3))


def test_composed_sources_of_a_mixture_are_close_ups_and_reworded(pack: Path) -> None:
    sources = [Source(kind="composed")]
    opened = Sources(
        sources, pack, subwords=False, enlarge=0.5, close=1.0, texture=0.25, wording=0.5
    )
    samples = opened.samples(sources, SIZE, 0)
    assert samples.parts[0].samples.composer.texture_ratio == 0.25
    assert max(len(samples[i].boxes_xyxy) for i in range(30)) <= 3
    assert opened.vocabulary.other is not None
    assert len(opened.vocabulary.other.vectors) == len(opened.vocabulary.names)
    plain = Sources(sources, pack, subwords=False)
    assert plain.vocabulary.other is None
    assert max(len(plain.samples(sources, SIZE, 0)[i].boxes_xyxy) for i in range(30)) > 3


def test_two_sources_of_one_pack_show_different_scenes(pack: Path) -> None:
    sources = [Source(kind="composed"), Source(kind="composed", supervision="boxes")]
    samples = Sources(sources, pack, subwords=False).samples(sources, SIZE, 0)
    parts = [part[0].image for part in samples.parts]
    assert not torch.equal(*parts)


# --- files ---------------------------------------------------------------------------------------


def write(folder: Path, content: Any) -> Path:
    file = folder / "file.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_a_mixture_file_becomes_sources(tmp_path: Path) -> None:
    entries = [
        {"kind": "composed", "ratio": 3, "supervision": "boxes"},
        {"kind": "coco", "annotations": "a.json", "images": "/pictures", "names": "federated"},
    ]
    assert read_mixture(write(tmp_path, {"sources": entries})) == (
        Source(kind="composed", ratio=3, supervision="boxes"),
        Source(
            kind="coco",
            annotations=tmp_path / "a.json",
            images=Path("/pictures"),
            names="federated",
        ),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ([1], "an object with sources"),
        ({}, "'sources' is missing"),
        ({"sources": []}, "a list of objects"),
        ({"source": []}, "unknown field 'source'; allowed: sources"),
        ({"sources": [3]}, "source 1: is 3; allowed: an object"),
        ({"sources": [{}]}, "source 1: field 'kind' is missing"),
        ({"sources": [{"kind": "voc"}]}, "Source.kind is 'voc'; allowed: composed, coco"),
        ({"sources": [{"kind": "composed", "ration": 1}]}, "source 1: unknown field 'ration'"),
        ({"sources": [{"kind": "composed", "ratio": "1"}]}, "'ratio' is \"1\"; allowed: a number"),
        ({"sources": [{"kind": "composed", "ratio": True}]}, "'ratio' is true; allowed: a number"),
        ({"sources": [{"kind": "composed", "ratio": -1}]}, "Source.ratio is -1; allowed: above 0"),
        ({"sources": [{"kind": "composed", "ratio": 1e308}] * 2}, "ratio is 1e+308; allowed"),
        ('{"sources": [{"kind": "composed", "ratio": 1, "ratio": 3}]}', "'ratio' stands there twi"),
        (f'{{"sources": [{{"kind": "composed", "ratio": {"9" * 400}}}]}}', "of 400 digits"),
        ('{"sources": [{"kind": "composed", "ratio": NaN}]}', "Source.ratio is nan"),
        ({"sources": [{"kind": "composed", "names": "some"}]}, "allowed: exhaustive, federated"),
        ({"sources": [{"kind": "composed", "supervision": "x"}]}, "masks, boxes, agnostic"),
        ({"sources": [{"kind": "coco"}]}, "Source.annotations is 'None'; allowed: a path"),
        ({"sources": [{"kind": "composed", "images": "x"}]}, "nothing where it is composed"),
        (
            {"sources": [{"kind": "composed", "expressions": "x"}]},
            "with kind coco and supervision expressions",
        ),
    ],
)
def test_malformed_mixtures_are_one_line(tmp_path: Path, content: Any, message: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(InputError) as caught:
        read_mixture(file)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_a_recipe_file_becomes_stages(tmp_path: Path) -> None:
    boxes = {"kind": "composed", "supervision": "boxes"}
    stages = [
        {"share": 2, "name": "boxes", "sources": [boxes], "frozen": ["text_projection"]},
        {"share": 1, "sources": [{"kind": "composed"}], "size": 96, "lr": 0.5, "warmup": 0},
    ]
    recipe = read_recipe(write(tmp_path, {"schedule": "run", "stages": stages}))
    assert recipe == Recipe(
        schedule="run",
        stages=(
            Stage(
                share=2,
                name="boxes",
                sources=(Source(kind="composed", supervision="boxes"),),
                frozen=("text_projection",),
            ),
            Stage(share=1, sources=(Source(kind="composed"),), size=96, lr=0.5, warmup=0),
        ),
    )
    assert recipe.starts(10) == [0, 7, 10]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "'stages' is null; allowed: a list"),
        ({"stages": []}, "Recipe.stages is empty"),
        ({"stages": [{"share": 1}], "schedule": "x"}, "Recipe.schedule is 'x'"),
        ({"stages": [{}]}, "stage 1: field 'share' is missing"),
        ({"stages": [{"share": 0}]}, "Stage.share is 0"),
        ({"stages": [{"share": 1, "size": 100}]}, "Stage.size is 100; allowed: multiples of 32"),
        ({"stages": [{"share": 1, "size": 3_200_000}]}, "allowed: multiples of 32 up to 8192"),
        ({"stages": [{"share": 1e308}, {"share": 1e308}]}, "Stage.share is 1e+308"),
        ({"stages": [{"share": 1, "frozen": "backbone"}]}, "allowed: a list"),
        ({"stages": [{"share": 1, "frozen": [1]}]}, "Stage.frozen is [1]"),
        ({"stages": [{"share": 1, "sources": [{}]}]}, "stage 1: source 1: field 'kind' is missing"),
    ],
)
def test_malformed_recipes_are_one_line(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_recipe(write(tmp_path, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


COMPOSED = (Source(kind="composed"),)
STAGES = (Stage(share=1), Stage(share=1, sources=COMPOSED))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": COMPOSED, "agnostic_ratio": 0.5}, "its sources have ratios of their own"),
        (
            {"mixture": COMPOSED, "annotations": Path("a"), "images": Path("b")},
            "either annotations or a mixture",
        ),
        (
            {
                "mixture": (Source(kind="coco", annotations=Path("a"), images=Path("b")),),
                "close_ratio": 0.5,
            },
            "close_ratio is 0.5; allowed with a mixture without composed scenes: 0",
        ),
        (
            {
                "mixture": (Source(kind="coco", annotations=Path("a"), images=Path("b")),),
                "texture_ratio": 0.5,
            },
            "texture_ratio is 0.5; allowed with a mixture without composed scenes: 0",
        ),
        (
            {"mixture": COMPOSED, "photometric_ratio": 0.5},
            "photometric_ratio is 0.5; allowed without a COCO file: 0",
        ),
        ({"recipe": Recipe(stages=STAGES)}, "some stages of the recipe have sources"),
        ({"recipe": Recipe(stages=STAGES[1:]), "mixture": COMPOSED}, "every stage .* has sources"),
        (
            {"recipe": Recipe(stages=STAGES[:1]), "steps": None, "minutes": 1.0},
            "needs steps",
        ),
        ({"recipe": Recipe(stages=(Stage(share=1), Stage(share=99)))}, "stage 1 .* no step of 10"),
        (
            {
                "recipe": Recipe(stages=(Stage(share=1, size=64),)),
                "sizes": ((0.0, 64), (0.5, 96)),
            },
            "either a schedule of sizes",
        ),
    ],
)
def test_runs_that_say_two_things_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**{"preset": "mobius-test", "out": Path("x"), "steps": 10, **changes})


def test_options_reach_the_run(tmp_path: Path) -> None:
    mixture = write(tmp_path, {"sources": [{"kind": "composed"}]})
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"stages": [{"share": 1}, {"share": 3, "size": 96}]}')
    run = ["train", "--preset", "mobius-test", "--out", "x", "--steps", "8"]
    options = [*run, "--mixture", str(mixture), "--recipe", str(recipe)]
    config = train_config(build_parser().parse_args(options))
    assert config.mixture == COMPOSED
    assert [config.stage_at(step) for step in (0, 1, 2, 7)] == [0, 0, 1, 1]
    assert [config.size_at(step) for step in (1, 2)] == [256, 96]
    assert config.model().input_size == 96
    stored = json.loads(config.to_json())
    assert stored["mixture"][0]["kind"] == "composed"
    assert stored["recipe"]["stages"][1]["size"] == 96


def test_one_batch_mixes_sources_and_depends_on_its_step_alone(
    pack: Path, coco: dict[str, Path]
) -> None:
    mixture = (
        Source(kind="composed", supervision="boxes"),
        Source(kind="composed", supervision="agnostic"),
        Source(kind="coco", **coco),
    )
    config = TrainConfig(
        preset="mobius-test", out=Path("x"), steps=4, batch_size=8, pack=pack, mixture=mixture,
        sizes=((0.0, SIZE),), negatives=(1, 3),
    )  # fmt: skip
    batch = StepBatches(config)[3]
    assert any(t.masks_MHW is None for t in batch.targets)
    assert any(t.rows_M is None for t in batch.targets)
    assert any(t.masks_MHW is not None and t.rows_M is not None for t in batch.targets)
    again = StepBatches(config)
    again[0]
    assert torch.equal(again[3].images_B3HW, batch.images_B3HW)
    other = StepBatches(replace(config, seed=1))[3]
    assert not torch.equal(other.images_B3HW, batch.images_B3HW)


def test_the_examples_of_the_documentation_are_read(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "training.md"
    mixture, recipe = re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(read_mixture(write(tmp_path, mixture))) == 4
    stages = read_recipe(write(tmp_path, recipe)).stages
    assert [stage.name for stage in stages] == ["boxes", "joint", "scale-up"]
