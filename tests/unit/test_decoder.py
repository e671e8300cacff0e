"""Query selection and the decoder's layers."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.calibration import confidence
from mobius_seg.config import ModelConfig
from mobius_seg.decoder import BoxBias, Decoder, Memory
from mobius_seg.naming import NameEvidence
from mobius_seg.presets import get_preset
from mobius_seg.selection import QuerySelection

CONFIG = get_preset("mobius-test")
C = CONFIG.width


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def levels(batch: int = 2, height: int = 64, width: int = 96) -> dict[int, Tensor]:
    sides = {s: (-(-height // s), -(-width // s)) for s in (8, 16, 32, 64)}
    return {s: normal(batch, C, *size, seed=s) for s, size in sides.items()}


def names(batch: int = 2, height: int = 64, width: int = 96) -> NameEvidence:
    low, high = (height // 4, width // 4), (height // 16, width // 16)
    features = normal(batch, CONFIG.mask_width, *low, seed=6)
    return NameEvidence.of(normal(batch, C, *high, seed=5), features, 16)


TEXT = F.normalize(normal(1, 3, C, seed=1), dim=-1)
THING = normal(C, seed=2)


def built(kind: type[nn.Module], **changes: Any) -> Any:
    config: ModelConfig = replace(CONFIG, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()


@torch.no_grad()
def test_the_most_confident_tokens_become_queries() -> None:
    selection = built(QuerySelection)
    query, out, dense = selection(levels(), names(), TEXT, None, THING, 7)
    assert query.shape == (2, 7, C)
    assert dense is None
    every = selection(levels(), names(), TEXT, None, THING, 10_000)[1]
    assert every.boxes_BQ4.shape[1] == 8 * 12 + 4 * 6  # no more queries than tokens
    all_scores = confidence(every.logits_BQK, every.object_logits_BQ, None, 0.5)
    scores = confidence(out.logits_BQK, out.object_logits_BQ, None, 0.5)
    torch.testing.assert_close(scores, all_scores.sort(1, descending=True).values[:, :7])


@torch.no_grad()
@pytest.mark.parametrize("candidates", [20, 119, 120, 500])
def test_candidates_are_the_tokens_most_like_objects(candidates: int) -> None:
    """What is picked is the best by confidence of the tokens of best objectness."""
    every = built(QuerySelection)(levels(), names(), TEXT, None, THING, 10_000)[1]
    likest = every.object_logits_BQ.topk(min(candidates, 120), dim=1).indices
    scores = confidence(every.logits_BQK, every.object_logits_BQ, None, 0.5).gather(1, likest)
    best = likest.gather(1, scores.topk(7, dim=1).indices)
    selection = built(QuerySelection, candidates=candidates, queries=20)
    out = selection(levels(), names(), TEXT, None, THING, 7)[1]
    for ours, all_of_them in (
        (out.logits_BQK, every.logits_BQK),
        (out.boxes_BQ4, every.boxes_BQ4),
        (out.object_logits_BQ[..., None], every.object_logits_BQ[..., None]),
    ):
        wanted = all_of_them.gather(1, best[..., None].expand(-1, -1, ours.shape[2]))
        torch.testing.assert_close(ours, wanted)


@torch.no_grad()
def test_few_candidates_find_other_queries_than_all_tokens() -> None:
    """The test above would say nothing if every choice were the same."""
    all_tokens = built(QuerySelection)(levels(), names(), TEXT, None, THING, 7)[1]
    selection = built(QuerySelection, candidates=20, queries=20)
    some = selection(levels(), names(), TEXT, None, THING, 7)[1]
    assert not torch.allclose(some.boxes_BQ4, all_tokens.boxes_BQ4)


@torch.no_grad()
def test_masked_columns_select_nothing() -> None:
    selection = built(QuerySelection, objectness_weight=0.0)
    mask = torch.tensor([[True, False, False]])
    masked = selection(levels(), names(), TEXT, mask, THING, 7)[1]
    alone = selection(levels(), names(), TEXT[:, :1], None, THING, 7)[1]
    torch.testing.assert_close(masked.boxes_BQ4, alone.boxes_BQ4)


@torch.no_grad()
def test_boxes_of_the_selection_start_on_their_tokens() -> None:
    """With a silent box head: the token's centre and three cells of its level."""
    selection = built(QuerySelection, token_strides=(16, 8))
    nn.init.zeros_(selection.box[-1].weight)
    nn.init.zeros_(selection.box[-1].bias)
    boxes = selection(levels(), names(), TEXT, None, THING, 10_000)[1].boxes_BQ4[0]
    sizes = {(round(float(w), 4), round(float(h), 4)) for w, h in boxes[:, 2:]}
    assert sizes == {(round(3 / 12, 4), round(3 / 8, 4)), (round(3 / 6, 4), round(3 / 4, 4))}
    fine = boxes[boxes[:, 2] < 0.3]
    assert len(fine) == 96
    on_grid = fine[:, :2] * torch.tensor([12, 8]) - 0.5
    torch.testing.assert_close(on_grid, on_grid.round(), rtol=0, atol=1e-3)
    assert len({tuple(row) for row in on_grid.round().int().tolist()}) == 96


def test_dense_predictions_in_training_only() -> None:
    selection = built(QuerySelection).train()
    dense = selection(levels(), names(), TEXT, None, THING, 7)[2]
    assert dense is not None
    assert dense.logits_BNK.shape == (2, 120, 3)
    assert dense.boxes_BN4.shape == (2, 120, 4)
    assert dense.strides_N.tolist() == [8.0] * 96 + [16.0] * 24
    assert bool(((dense.centers_N2 > 0) & (dense.centers_N2 < 1)).all())


def test_selection_teaches_the_tokens_but_not_by_its_choice() -> None:
    """Gradients flow through what was picked; the ranking itself has none."""
    maps = {s: m.requires_grad_() for s, m in levels(1).items()}
    built(QuerySelection)(maps, names(len(maps[8])), TEXT, None, THING, 5)[
        1
    ].boxes_BQ4.sum().backward()
    touched = sum(int((m.grad.abs().sum(1) > 0).sum()) for m in maps.values() if m.grad is not None)
    assert touched == 5


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "deformable"])
def test_memory_is_projected_once(kind: str) -> None:
    decoder = built(Decoder, cross_attention=kind, memory_strides=(16, 32), decoder_layers=3)
    calls: list[str] = []
    decoder.memory.register_forward_hook(lambda *_: calls.append("memory"))
    decoder.memory.value.register_forward_hook(lambda *_: calls.append("value"))
    stages, _ = decoder(levels(), names(), TEXT, None, THING)
    assert calls == ["value", "memory"]
    assert len(stages) == 4


@torch.no_grad()
def test_memory_levels() -> None:
    plain = built(Memory, memory_strides=(32, 16))(levels())
    assert plain.shapes == [(4, 6), (2, 3)]
    assert plain.key is not None
    assert plain.key.shape == plain.value.shape == (2, CONFIG.heads, 30, C // CONFIG.heads)
    deformable = built(Memory, memory_strides=(16, 64), cross_attention="deformable")(levels())
    assert deformable.values is not None
    shapes = [tuple(v.shape) for v in deformable.values]
    assert shapes == [(2 * CONFIG.heads, 8, 4, 6), (2 * CONFIG.heads, 8, 1, 2)]


@torch.no_grad()
def test_box_bias_is_a_sum_of_columns_and_rows() -> None:
    bias = BoxBias(4)
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.2], [0.2, 0.3, 0.1, 0.1]]])
    out = bias(boxes, [(4, 6), (2, 3)])
    assert out.shape == (1, 4, 2, 30)
    grid = out[..., :24].reshape(1, 4, 2, 4, 6)
    mixed = grid - grid.mean(-1, keepdim=True) - grid.mean(-2, keepdim=True)
    torch.testing.assert_close(mixed, mixed.mean((-1, -2), keepdim=True).expand_as(mixed))
    same = bias(boxes[:, [0, 0]], [(4, 6)])
    torch.testing.assert_close(same[:, :, 0], same[:, :, 1])
    assert not torch.allclose(out[:, :, 0], out[:, :, 1])
    sideways = bias(boxes + torch.tensor([0.1, 0.0, 0.0, 0.0]), [(4, 6)]) - bias(boxes, [(4, 6)])
    sideways = sideways.reshape(1, 4, 2, 4, 6)
    torch.testing.assert_close(sideways, sideways[..., :1, :].expand_as(sideways))
    assert (sideways[..., 0, :].std(-1) > 1e-3).any()
    assert torch.isfinite(bias(torch.tensor([[[0.0, 1.0, 0.0, 0.0]]]), [(4, 6)])).all()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "deformable"])
def test_queries_read_the_memory_near_their_box(kind: str) -> None:
    """A change of the memory changes the layers' answers, not the selection's."""
    decoder = built(Decoder, cross_attention=kind, memory_strides=(32,), token_strides=(8, 16))
    maps = levels()
    before, _ = decoder(maps, names(len(maps[8])), TEXT, None, THING)
    after, _ = decoder({**maps, 32: maps[32] + normal(*maps[32].shape)}, names(), TEXT, None, THING)
    assert torch.equal(before[0].boxes_BQ4, after[0].boxes_BQ4)
    assert not torch.allclose(before[1].mask_embed_BQM, after[1].mask_embed_BQM)


def test_boxes_are_refined_step_by_step_without_a_gradient_between_layers() -> None:
    decoder = built(Decoder)
    with torch.no_grad():
        decoder.heads.box[-1].bias.fill_(0.1)
    stages, _ = decoder(levels(), names(), TEXT, None, THING)
    for before, after in pairwise(stages):
        step = torch.logit(after.boxes_BQ4) - torch.logit(before.boxes_BQ4)
        torch.testing.assert_close(step, torch.full_like(step, 0.1), rtol=1e-3, atol=1e-3)
        found = torch.autograd.grad(
            after.boxes_BQ4.sum(), before.boxes_BQ4, allow_unused=True, retain_graph=True
        )
        assert found == (None,)


@torch.no_grad()
def test_dropping_keeps_the_most_confident_in_their_order() -> None:
    decoder = built(Decoder)
    full, _ = decoder(levels(), names(), TEXT, None, THING, layers=1)
    cut, _ = decoder(levels(), names(), TEXT, None, THING, keep=[12, 4], layers=2)
    last = full[-1]
    score = confidence(last.logits_BQK, last.object_logits_BQ, None, 0.5)
    kept = score.topk(4, dim=1).indices.sort(1).values
    # The box head starts at zero, so boxes name the queries that went on.
    wanted = last.boxes_BQ4.gather(1, kept[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(cut[-1].boxes_BQ4, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_no_layer_at_all_is_the_selection() -> None:
    stages, _ = built(Decoder)(levels(), names(), TEXT, None, THING, layers=0)
    assert len(stages) == 1
    assert stages[0].mask_embed_BQM.shape == (2, 12, CONFIG.mask_width)
