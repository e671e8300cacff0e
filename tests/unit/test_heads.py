"""What is read off a query."""

import pytest
import torch
from torch.nn import functional as F

from mobius_seg.heads import CosineClassifier, QueryHeads
from mobius_seg.naming import NameEvidence
from mobius_seg.presets import get_preset

CONFIG = get_preset("mobius-test")
C = CONFIG.width


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def columns(count: int, batch: int = 1) -> torch.Tensor:
    return F.normalize(tokens(batch, count, C, seed=1), dim=-1)


def names() -> NameEvidence:
    return NameEvidence.of(tokens(1, C, 2, 2), tokens(1, CONFIG.mask_width, 8, 8), 16)


def test_logit_is_scale_times_cosine_plus_bias() -> None:
    head, x, text, thing = CosineClassifier(CONFIG), tokens(2, 5, C), columns(3), tokens(C, seed=2)
    shown = tokens(2, 5, C, seed=3)
    logits, objects = head(x, shown, text, thing)
    vector = F.normalize(head.embed(x), dim=-1) + 2.0 * F.normalize(shown, dim=-1)
    cosine = F.cosine_similarity(vector[:, :, None], text[:, None], dim=-1)
    torch.testing.assert_close(logits, 25.0 * cosine - 4.6, rtol=1e-4, atol=1e-5)
    cosine = F.cosine_similarity(head.object_embed(x), thing, dim=-1)
    torch.testing.assert_close(objects, 10.0 * cosine - 4.6, rtol=1e-4, atol=1e-5)


def test_names_and_objects_start_at_the_focal_prior() -> None:
    x = tokens(4, 50, C)
    logits, objects = CosineClassifier(CONFIG)(x, x, columns(8), tokens(C, seed=2))
    for value in (logits, objects):
        assert float(value.detach().mean()) == pytest.approx(CONFIG.prior_logit, abs=0.6)


def test_no_column_and_columns_of_their_own() -> None:
    head, x, thing = CosineClassifier(CONFIG), tokens(2, 5, C), tokens(C, seed=2)
    assert head(x, x, torch.zeros(1, 0, C), thing)[0].shape == (2, 5, 0)
    text = columns(3, batch=2)
    both = head(x, x, text, thing)[0]
    for b in range(2):
        one = x[b : b + 1]
        torch.testing.assert_close(head(one, one, text[b : b + 1], thing)[0][0], both[b])


def test_scale_is_clamped() -> None:
    head, x, text, thing = CosineClassifier(CONFIG), tokens(1, 5, C), columns(3), tokens(C, seed=2)
    with torch.no_grad():
        head.log_scale.fill_(20.0)
        head.object_log_scale.fill_(20.0)
    logits, objects = head(x, x, text, thing)
    assert float((logits.detach() + 4.6).abs().max()) <= CONFIG.max_scale * (1 + 1e-5)
    assert float((objects.detach() + 4.6).abs().max()) <= CONFIG.max_scale * (1 + 1e-5)


def test_boxes_start_where_they_were_and_move_in_logit_space() -> None:
    heads, boxes = QueryHeads(CONFIG), torch.rand(1, 5, 4) * 0.8 + 0.1
    out = heads(tokens(1, 5, C), boxes, names(), columns(2), tokens(C, seed=2))
    torch.testing.assert_close(out.boxes_BQ4, boxes, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        heads.box[-1].bias.fill_(1.0)
    moved = heads(tokens(1, 5, C), boxes, names(), columns(2), tokens(C, seed=2)).boxes_BQ4
    torch.testing.assert_close(moved, torch.sigmoid(torch.logit(boxes) + 1), rtol=1e-4, atol=1e-5)
    assert out.mask_embed_BQM.shape == (1, 5, CONFIG.mask_width)


def test_boxes_at_the_border_stay_finite() -> None:
    edge = torch.tensor([[[0.0, 1.0, 0.0, 1.0]]]).requires_grad_()
    out = QueryHeads(CONFIG)(tokens(1, 1, C), edge, names(), columns(1), tokens(C, seed=2))
    out.boxes_BQ4.sum().backward()
    assert edge.grad is not None
    assert torch.isfinite(edge.grad).all()
    assert bool(((out.boxes_BQ4 >= 0) & (out.boxes_BQ4 <= 1)).all())
