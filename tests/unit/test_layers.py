"""Small parts of the network."""

import pytest
import torch
from torch import nn

from mobius_seg.deformable import DeformableAttention, deformable_sample
from mobius_seg.layers import (
    MLP,
    ConvNorm,
    FeedForward,
    SelfAttention,
    SeparableRefinement,
    WideRefinement,
    attend,
    flatten_map,
    grid_centers,
    inverse_sigmoid,
    merge_heads,
    sine_position,
    split_heads,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_mlp_has_no_activation_at_its_end() -> None:
    kinds = [type(part) for part in MLP(4, 8, 8, 2)]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert MLP(4, 2)(normal(3, 4)).min() < 0


def test_conv_norm_keeps_or_halves_the_size() -> None:
    x = normal(2, 6, 8, 10)
    assert ConvNorm(6, 4, 3)(x).shape == (2, 4, 8, 10)
    assert ConvNorm(6, 4, 3, stride=2)(x).shape == (2, 4, 4, 5)
    depthwise = ConvNorm(6, 6, 3, groups=6, activation=True)
    assert depthwise[0].weight.shape == (6, 1, 3, 3)
    assert depthwise[0].bias is None
    assert depthwise(x).min() == 0


def test_residual_parts_pass_the_input_on() -> None:
    x = normal(2, 5, 8)
    feed = FeedForward(8, 16)
    nn.init.zeros_(feed.mlp[-1].weight)
    nn.init.zeros_(feed.mlp[-1].bias)
    torch.testing.assert_close(feed(x), x)
    refine = SeparableRefinement(4).eval()
    nn.init.zeros_(refine.pointwise[1].weight)
    maps = normal(1, 4, 6, 6)
    torch.testing.assert_close(refine(maps), maps)


def test_heads_split_and_merge() -> None:
    x = normal(2, 5, 12)
    split = split_heads(x, 3)
    assert split.shape == (2, 3, 5, 4)
    torch.testing.assert_close(split[1, 2, 4], x[1, 4, 8:])
    assert torch.equal(merge_heads(split), x)


def test_self_attention_is_the_usual_one() -> None:
    """Against torch's multi-head attention with the same weights."""
    ours, reference = SelfAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([ours.query_key.weight, ours.value.weight]))
        reference.in_proj_bias.copy_(torch.cat([ours.query_key.bias, ours.value.bias]))
        reference.out_proj.load_state_dict(ours.out.state_dict())
        x, position = normal(2, 5, 12), normal(1, 5, 12, seed=1)
        normed = ours.norm(x)
        asked = normed + position
        wanted = x + reference(asked, asked, normed, need_weights=False)[0]
        torch.testing.assert_close(ours(x, position), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", ["none", "added", "mask"])
def test_attention_written_out_is_torchs(bias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = (torch.randn(2, 4, count, 8) for count in (5, 7, 7))
    given = {"none": None, "added": torch.randn(2, 4, 5, 7), "mask": torch.rand(2, 1, 1, 7) > 0.5}
    given["mask"][..., 0] = True  # some key of each row is read
    eager = attend(query, key, value, given[bias])
    wanted = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=given[bias])
    assert torch.equal(eager, wanted)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(attend(query, key, value, given[bias]), wanted)


def test_grid_centers_and_tokens_agree() -> None:
    height, width = 3, 4
    centers = grid_centers(height, width, torch.zeros(1))
    assert centers.shape == (12, 2)
    torch.testing.assert_close(centers[0], torch.tensor([0.125, 1 / 6]))
    torch.testing.assert_close(centers[1], torch.tensor([0.375, 1 / 6]))  # x runs first
    x = torch.linspace(0, 1, width + 1)[:-1] + 0.5 / width
    tokens = flatten_map(x.expand(1, 1, height, width))
    torch.testing.assert_close(tokens[0, :, 0], centers[:, 0])


@pytest.mark.parametrize("axes", [1, 2, 4])
def test_sine_position_tells_places_apart(axes: int) -> None:
    values = torch.rand(200, axes, generator=torch.Generator().manual_seed(0))
    code = sine_position(values, 32)
    assert code.shape == (200, 32)
    assert float(code.abs().max()) <= 1.0
    near, far = sine_position(values + 0.01, 32), sine_position((values + 0.3) % 1, 32)
    assert (code - near).norm(dim=-1).mean() < 0.3 * (code - far).norm(dim=-1).mean()
    distance = torch.cdist(code, code) + 9 * torch.eye(200)
    apart = torch.cdist(values, values)
    assert bool((apart[distance < 0.1] < 0.1).all())


def test_inverse_sigmoid() -> None:
    p = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(inverse_sigmoid(p).sigmoid(), p)
    ends = inverse_sigmoid(torch.tensor([0.0, 1.0, -3.0]))
    assert torch.isfinite(ends).all()


def test_deformable_sample_reads_cells() -> None:
    """One head reads a cell's centre on one level and half way between two on the other."""
    first = torch.arange(12.0).reshape(1, 1, 3, 4)
    second = 100 * torch.arange(4.0).reshape(1, 1, 2, 2)
    locations = torch.tensor([[[[1.5 / 4, 2.5 / 3], [0.5, 0.25]]]])
    weights = torch.tensor([[[1.0, 0.0]]])
    assert float(deformable_sample([first, second], locations, weights)) == pytest.approx(9.0)
    assert float(deformable_sample([first, second], locations, 1 - weights)) == pytest.approx(50.0)
    half = deformable_sample([first, second], locations, torch.tensor([[[0.5, 0.5]]]))
    assert float(half) == pytest.approx(29.5)
    outside = deformable_sample([first], torch.tensor([[[[2.0, 2.0]]]]), torch.ones(1, 1, 1))
    assert float(outside) == 0.0


def test_deformable_attention_starts_as_a_star_around_the_reference() -> None:
    """On a map that holds its own x, the mean over symmetric rays is the reference's x."""
    attention = DeformableAttention(8, 8, 1, 2)
    nn.init.eye_(attention.out.weight)
    nn.init.zeros_(attention.out.bias)
    x = ((torch.arange(32) + 0.5) / 32).expand(1, 1, 32, 32).repeat(8, 1, 1, 1)
    reference = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.4, 0.6, 0.2, 0.1]]])
    with torch.no_grad():
        read = attention(normal(1, 2, 8), reference, [x])
    torch.testing.assert_close(read.mean(-1), reference[..., 0], rtol=0, atol=1e-4)
    # Cells of the map where the reference has no size, shares of its half where it has.
    torch.testing.assert_close(read[0, 0, 0], torch.tensor(0.5 + 1.5 / 32), rtol=0, atol=1e-4)
    torch.testing.assert_close(read[0, 1, 0], torch.tensor(0.4 + 1.5 * 0.05), rtol=0, atol=1e-4)


def test_wide_refinement_adds_what_it_sees_of_seven_pixels_to_its_input() -> None:
    torch.manual_seed(0)
    layer = WideRefinement(8, 7, 4).eval()
    x = torch.zeros(1, 8, 15, 15)
    x[0, :, 7, 7] = 1.0
    changed = (layer(x) - layer(torch.zeros_like(x)) - x).abs().sum(1)[0] > 1e-7
    rows, columns = changed.nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 10, 4, 10)
    assert layer.expand[0].out_channels == 32
    torch.nn.init.zeros_(layer.reduce[0].weight)
    assert torch.equal(layer(x), x)


def test_an_exported_deformable_layer_keeps_nothing_of_its_examples_size() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = DeformableAttention(8, 2, 1, 2)

        def forward(self, query: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            points = torch.full((*query.shape[:2], 4), 0.4) * torch.tensor([1.0, 1.0, 0.0, 0.0])
            read: torch.Tensor = self.attention(query, points, [value])
            return read

    reader, query = Reader().eval(), normal(1, 3, 8)
    shapes = ({}, {2: torch.export.Dim("rows", min=2), 3: torch.export.Dim("columns", min=2)})
    example = (query, normal(2, 4, 6, 6))
    program = torch.export.export(reader, example, dynamic_shapes=shapes, strict=False).module()
    for rows, columns in ((5, 11), (12, 4)):
        value = normal(2, 4, rows, columns, seed=rows)
        torch.testing.assert_close(program(query, value), reader(query, value))
