"""Policies as data, and the decoder that runs them image by image."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.calibration import confidence
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.pruned_decoder import PrunedOutput, decode, run_pruned
from mobius_seg.pruning import PruningPolicy, change
from mobius_seg.types import Encoded, TextPrompt

CONFIG = replace(get_preset("mobius-test"), decoder_layers=4)
ADAPTIVE = PruningPolicy(
    keep=(12, 10, 8),
    layers=3,
    thresholds=(0.0, 0.5),
    floors=((0.1, 0.2), (0.2, 0.4)),
    least=2,
    settle=0.05,
    sure=0.1,
)


def network(**changes: Any) -> Mobius:
    """Queries that differ, boxes that move, scores around a half."""
    config: ModelConfig = replace(CONFIG, **{"initial_scale": 10.0, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Mobius(config).eval()
        with torch.no_grad():
            nn.init.normal_(made.decoder.heads.box[-1].weight, std=0.2)  # type: ignore[arg-type]
            for part in (made.decoder.heads, made.decoder.selection):
                part.classifier.name_gain.fill_(0.2)  # noise looks alike to the name map
            made.decoder.heads.classifier.bias.zero_()
            made.decoder.heads.classifier.object_bias.zero_()
            made.decoder.selection.classifier.bias.zero_()
            made.decoder.selection.classifier.object_bias.zero_()
    return made


def inputs(batch: int = 4, seed: int = 0) -> tuple[Tensor, TextPrompt]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, 3, 64, 96, generator=generator)
    images *= torch.linspace(0.2, 1.0, batch)[:, None, None, None]
    names = F.normalize(torch.randn(1, 3, 384, generator=generator), dim=-1)
    return images, TextPrompt(names)


def middle_floor(made: Mobius, encoded: Encoded) -> float:
    """A confidence with about half of all queries below it, apart from every query's own."""
    stages, _ = made.decoder(
        encoded.maps, encoded.names, encoded.text_BKC, None, made.object_column, layers=1
    )
    score = confidence(stages[1].logits_BQK, stages[1].object_logits_BQ, None, 0.5)
    ordered = score.flatten().sort().values
    return float(ordered[len(ordered) // 2 : len(ordered) // 2 + 2].mean())


def middle_change(made: Mobius, encoded: Encoded) -> float:
    """A change of layer 2 that about half of the images stay below."""
    found: dict[int, list[float]] = {}
    before: dict[int, tuple[Tensor, Tensor]] = {}
    for results in decode(made, encoded, PruningPolicy(layers=2)):
        for r in results:
            score = confidence(r.layer.logits_BQK, r.layer.object_logits_BQ, None, 0.5)[0]
            boxes = r.layer.boxes_BQ4[0]
            if r.image in before:
                step = change(score, before[r.image][0], boxes, before[r.image][1])
                found.setdefault(r.stage, []).append(step)
            before[r.image] = (score, boxes)
    ordered = sorted(found[2])
    return sum(ordered[len(ordered) // 2 - 1 : len(ordered) // 2 + 1]) / 2


def by_floor(floor: float, **more: Any) -> PruningPolicy:
    """Prunes below ``floor`` after every stage but the selection."""
    floors = ((0.0,), (floor,), (floor,), (floor,))
    return PruningPolicy(thresholds=(0.0,), floors=floors, **more)


def same(first: PrunedOutput, second: PrunedOutput, tolerance: float = 1e-4) -> None:
    assert first.queries == second.queries
    assert first.index_Q.tolist() == second.index_Q.tolist()
    for a, b in zip(first.output.layers, second.output.layers, strict=True):
        for field in ("logits_BQK", "object_logits_BQ", "boxes_BQ4", "mask_embed_BQM"):
            torch.testing.assert_close(getattr(a, field), getattr(b, field), atol=tolerance, rtol=0)
    torch.testing.assert_close(
        first.output.mask_logits(), second.output.mask_logits(), atol=tolerance, rtol=0
    )


@pytest.mark.parametrize("kind", ["plain", "deformable"])
@torch.no_grad()
def test_nothing_pruned_is_the_plain_decoder_bit_for_bit(kind: str) -> None:
    made = network(cross_attention=kind)
    images, prompt = inputs(3)
    plain = made(images, prompt)
    # Floors that nothing falls below and a change that is never that small prune nothing either.
    for policy in (PruningPolicy(), by_floor(-1.0, keep=(12,), layers=4)):
        pruned = run_pruned(made, made.encode(images, prompt), policy)
        for image, one in enumerate(pruned):
            assert one.queries == (12,) * 5
            for mine, layer in zip(one.output.layers, plain.layers, strict=True):
                assert torch.equal(mine.logits_BQK[0], layer.logits_BQK[image])
                assert torch.equal(mine.object_logits_BQ[0], layer.object_logits_BQ[image])
                assert torch.equal(mine.boxes_BQ4[0], layer.boxes_BQ4[image])
            last = one.output.layers[-1].mask_embed_BQM[0]
            assert torch.equal(last, plain.layers[-1].mask_embed_BQM[image])
            assert torch.equal(one.output.mask_features_BMhw[0], plain.mask_features_BMhw[image])


@pytest.mark.parametrize("layers", [0, 1, 3])
@torch.no_grad()
def test_static_is_what_the_decoder_does_for_the_whole_batch(layers: int) -> None:
    made = network()
    images, prompt = inputs(3)
    keep = [10, 7, 4]
    plain = made(images, prompt, keep=keep, layers=layers)
    pruned = run_pruned(made, made.encode(images, prompt), PruningPolicy.static(keep, layers))
    for image, one in enumerate(pruned):
        assert one.queries == (10, 10, 7, 4)[: layers + 1]
        last = one.output.layers[-1]
        torch.testing.assert_close(last.boxes_BQ4[0], plain.layers[-1].boxes_BQ4[image])
        torch.testing.assert_close(last.mask_embed_BQM[0], plain.layers[-1].mask_embed_BQM[image])


@pytest.mark.parametrize("kind", ["plain", "deformable"])
@torch.no_grad()
def test_each_image_of_a_batch_is_pruned_as_if_alone(kind: str) -> None:
    made = network(cross_attention=kind, memory_strides=(16, 32))
    images, prompt = inputs(6)
    encoded = made.encode(images, prompt)
    settle = middle_change(made, encoded)
    policy = by_floor(middle_floor(made, encoded), least=2, settle=settle)
    together = run_pruned(made, encoded, policy)
    assert len({one.queries for one in together}) > 2, "images should differ here"
    assert len({len(one.queries) for one in together}) > 1, "some should stop early"
    for image, one in enumerate(together):
        alone = run_pruned(made, made.encode(images[image : image + 1], prompt), policy)
        same(one, alone[0])


@torch.no_grad()
def test_prompts_of_their_own_go_with_their_image() -> None:
    made = network()
    images, _ = inputs(3)
    names = F.normalize(torch.randn(3, 4, 384, generator=torch.Generator().manual_seed(1)), dim=-1)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    encoded = made.encode(images, TextPrompt(names, mask))
    policy = by_floor(middle_floor(made, encoded), least=1)
    together = run_pruned(made, encoded, policy)
    assert len({one.queries for one in together}) > 1
    for image in range(3):
        row = slice(image, image + 1)
        alone = made.encode(images[row], TextPrompt(names[row], mask[row]))
        same(together[image], run_pruned(made, alone, policy)[0])


@torch.no_grad()
def test_pruned_queries_and_stopped_images_are_not_run() -> None:
    made = network()
    images, prompt = inputs(6)
    encoded = made.encode(images, prompt)
    settle = middle_change(made, encoded)
    policy = by_floor(middle_floor(made, encoded), least=2, settle=settle)
    seen: list[tuple[int, int]] = []
    for layer in made.decoder.layers:
        layer.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[:2])))
    masks: list[int] = []
    made.decoder.heads.mask.register_forward_hook(
        lambda _, __, out: masks.append(out[..., 0].numel())
    )
    done = run_pruned(made, encoded, policy)
    assert sum(b * q for b, q in seen) == sum(sum(one.queries[1:]) for one in done)
    # Every stage reads names under its masks; the whole batch runs the selection at once.
    assert sum(masks) == sum(sum(one.queries) for one in done)
    calls: list[str] = []
    made.decoder.memory.register_forward_hook(lambda *_: calls.append("memory"))
    run_pruned(made, encoded, PruningPolicy.static((), 0))
    assert not calls, "without a layer nobody reads the memory"


@torch.no_grad()
def test_original_numbers_are_kept() -> None:
    """Boxes of a pruned query are those of the same query of the selection, moved alike."""
    made = network()
    images, prompt = inputs(1)
    encoded = made.encode(images, prompt)
    full = {r.stage: r for (r,) in decode(made, encoded, PruningPolicy())}
    cut = {r.stage: r for (r,) in decode(made, encoded, PruningPolicy.static((12, 5)))}
    kept = cut[2].index_Q
    assert len(kept) == 5
    score = confidence(full[1].layer.logits_BQK, full[1].layer.object_logits_BQ, None, 0.5)[0]
    assert set(kept.tolist()) == set(score.topk(5).indices.tolist())
    assert kept.tolist() == sorted(kept.tolist())


@torch.no_grad()
def test_a_ranker_takes_the_place_of_the_confidence() -> None:
    made = network()
    images, prompt = inputs(2)
    wanted = torch.tensor([1, 4, 6])

    def rank(_stage: int, _image: int, index_Q: Tensor, _confidence_Q: Tensor) -> Tensor:
        return torch.isin(index_Q, wanted).float()

    encoded = made.encode(images, prompt)
    for one in run_pruned(made, encoded, PruningPolicy.static((12, 3)), rank=rank):
        assert one.index_Q.tolist() == [1, 4, 6]


@torch.no_grad()
def test_maps_calibrate_what_pruning_reads() -> None:
    made = network()
    images, prompt = inputs(2)

    class Nothing:
        def apply(self, stage: int, scores: Tensor) -> Tensor:
            return scores * (0.0 if stage == 1 else 1.0)

    encoded = made.encode(images, prompt)
    policy = PruningPolicy(thresholds=(0.0,), floors=((0.0,), (1e-9,)), least=3)
    for one in run_pruned(made, encoded, policy, maps=Nothing()):
        assert one.queries == (12, 12, 3, 3, 3)
    for one in run_pruned(made, encoded, policy):
        assert one.queries == (12,) * 5


def test_floors_follow_the_threshold() -> None:
    assert ADAPTIVE.floor(0, 0.25) == pytest.approx(0.15)
    assert ADAPTIVE.floor(1, 0.9) == pytest.approx(0.4)
    assert ADAPTIVE.floor(2, 0.9) == float("-inf")
    scores = torch.tensor([[0.05, 0.15, 0.3], [0.3, 0.3, 0.3], [0.0, 0.0, 0.0]])
    assert ADAPTIVE.counts(0, scores, 0.0) == [2, 3, 2]  # the last: least
    assert ADAPTIVE.counts(0, scores, 0.5) == [2, 3, 2]
    assert replace(ADAPTIVE, least=1).counts(0, scores, 0.5) == [1, 3, 1]
    assert replace(ADAPTIVE, keep=(2,)).counts(0, scores, 0.0) == [2, 2, 2]


def test_change_is_zero_for_nothing_and_counts_the_confident() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]])
    score = torch.tensor([0.9, 0.1])
    assert change(score, score, boxes, boxes) == pytest.approx(0, abs=1e-6)
    moved = boxes.clone()
    moved[0, 0] += 0.1  # half a side: IoU 1/3
    assert change(score, score, moved, boxes) == pytest.approx(0.9 * 2 / 3, abs=1e-5)
    assert change(score, score - 0.1, boxes, boxes) == pytest.approx(0.1, abs=1e-6)


def test_settled_asks_for_both() -> None:
    policy = PruningPolicy(settle=0.1, sure=0.5)
    assert policy.settled(torch.tensor([0.8, 0.1]), 0.05)
    assert not policy.settled(torch.tensor([0.8, 0.1]), 0.2)
    assert not policy.settled(torch.tensor([0.2, 0.1]), 0.05)
    assert not PruningPolicy().settled(torch.tensor([0.8]), 0.0)


def test_json_round_trip() -> None:
    for policy in (PruningPolicy(), PruningPolicy.static((5, 3), 2), ADAPTIVE):
        assert PruningPolicy.from_json(policy.to_json()) == policy
    forms = [PruningPolicy().form, PruningPolicy.static((5,)).form, ADAPTIVE.form]
    assert forms == ["full", "static", "adaptive"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"keep": []}', "is missing"),
        (ADAPTIVE.to_json().replace('"sure"', '"shure"'), "'shure' is unknown"),
        (ADAPTIVE.to_json().replace('"least": 2', '"least": 0'), "least is 0"),
        (ADAPTIVE.to_json().replace('"least": 2', '"least": true'), "least is True"),
        (ADAPTIVE.to_json().replace('"layers": 3', '"layers": -1'), "layers is -1"),
        (ADAPTIVE.to_json().replace("0.05", "NaN"), "settle is nan"),
        (PruningPolicy().to_json().replace('"keep": []', '"keep": 3'), "'keep' is 3"),
        ("[" * 100_000, "not valid JSON"),
        ('{"least": 1, "least": 2}', "'least' stands there twice"),
        (ADAPTIVE.to_json().replace("0.05", "9" * 400), "a whole number of 400 digits"),
    ],
)
def test_bad_policies_are_named(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        PruningPolicy.from_json(text, "here.json")
    assert "here.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"keep": 5}, "keep is 5"),
        ({"keep": "34"}, "keep is '34'"),
        ({"thresholds": None}, "thresholds is None"),
        ({"floors": 0.5}, "floors is 0.5"),
        ({"thresholds": (0.5,), "floors": (0.1,)}, "floors is"),
        ({"thresholds": (0.5,), "floors": ((10**400,),)}, "floors is"),
        ({"settle": 10**400}, "settle is 1000"),
        ({"sure": 10**400}, "sure is 1000"),
    ],
)
def test_policies_of_the_wrong_kind_are_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=rf"PruningPolicy\.{said}.*; allowed") as caught:
        PruningPolicy(**fields)
    assert len(str(caught.value)) < 200


def test_a_number_is_no_schedule() -> None:
    with pytest.raises(InputError, match="keep is 5; allowed"):
        PruningPolicy.static(5)  # type: ignore[arg-type]
    assert PruningPolicy.static(range(9, 6, -1)) == PruningPolicy(keep=(9, 8, 7))
    with pytest.raises(InputError, match="field 1 is unknown"):
        PruningPolicy.from_dict({1: 2, "more": 3})


def test_floors_must_fit_their_thresholds() -> None:
    with pytest.raises(InputError, match="floors"):
        PruningPolicy(thresholds=(0.0, 0.5), floors=((0.1,),))
    with pytest.raises(InputError, match="thresholds"):
        PruningPolicy(thresholds=(0.5, 0.0))
