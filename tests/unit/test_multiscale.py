"""The baseline's parts: what each switch between it and our model does, and does not, change."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mobius_seg.config import ModelConfig
from mobius_seg.data.sample import Sample, Vocabulary, collate
from mobius_seg.fusion import SharedTextFusion, TextFusion, fuse_levels
from mobius_seg.losses import Criterion, LossConfig
from mobius_seg.model import Mobius
from mobius_seg.multiscale import MultiscalePixelDecoder
from mobius_seg.points import PointConfig
from mobius_seg.presets import get_preset
from mobius_seg.prompts import Prompt, build_batch
from mobius_seg.types import TextPrompt

SMALL: dict[str, Any] = {
    "backbone": "test_resnet",
    "width": 32,
    "mask_width": 16,
    "heads": 4,
    "fusion_width": 32,
    "mixing_layers": 1,
    "mixing_ffn": 64,
    "queries": 12,
    "decoder_layers": 2,
    "decoder_ffn": 64,
}
BASELINE = replace(get_preset("glee-lite"), **SMALL)
OURS = replace(get_preset("mobius-m"), **SMALL)
# One field at a time from either end, where the ends themselves are tested as presets.
STEPS = {
    "bottleneck": replace(BASELINE, pixel_decoder="bottleneck"),
    "multiscale": replace(OURS, pixel_decoder="multiscale"),
    "text at one stride": replace(BASELINE, fusion="bottleneck"),
    "text at every stride": replace(OURS, fusion="levels"),
    "one value projection": replace(BASELINE, share_value_projection=True),
    "own value projections": replace(OURS, share_value_projection=False),
    "one memory stride": replace(BASELINE, memory_strides=(16,)),
    "coarser bottleneck": replace(OURS, bottleneck_stride=32),
    "narrower": replace(OURS, width=16),
    "plain mixing of all scales": replace(BASELINE, mixing="plain"),
}
CANCELLED = (".key.bias", "box_bias.x.2.bias", "box_bias.y.2.bias")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outputs(network: Mobius, prompt: TextPrompt) -> list[Tensor]:
    out = network(normal(1, 3, 64, 64).sigmoid(), prompt)
    return [value for layer in out.layers for value in layer.tensors()]


@pytest.mark.parametrize("config", STEPS.values(), ids=STEPS)
def test_any_step_between_the_two_trains(
    config: ModelConfig, make_sample: Callable[..., Sample], vocabulary: Vocabulary
) -> None:
    network = Mobius(config).train()
    with torch.no_grad():
        for name, parameter in network.named_parameters():  # nothing hides behind a zero
            if not name.startswith("backbone.") or not parameter.any():
                parameter += 0.02 * torch.randn_like(parameter)
    samples = [make_sample(names=("cup", "dog")), make_sample(names=None, seed=1)]
    batch = collate(samples, vocabulary, np.random.default_rng(0), (2, 4))
    out = network(batch.images_B3HW.float() / 255, batch.prompt)
    criterion = Criterion(LossConfig(points=PointConfig(count=64, in_box=32)))
    parts = criterion(out, batch.targets, batch.prompt, torch.Generator().manual_seed(0))
    parts["loss"].backward()
    named = [(n, p) for n, p in network.named_parameters() if not n.endswith(CANCELLED)]
    assert not [name for name, p in named if p.grad is None or not p.grad.isfinite().all()]
    assert not [name for name, p in named if not p.grad.any()]


@torch.no_grad()
def test_shared_scores_equal_separate_ones_with_the_same_products() -> None:
    """Both directions read the same scores when the text's queries are the image's keys."""
    config = replace(OURS, fusion_width=32)
    shared, separate = SharedTextFusion(config), TextFusion(config)
    separate.image_norm.load_state_dict(shared.image_norm.state_dict())
    for name in ("image_query", "image_out", "text_out"):
        getattr(separate, name).load_state_dict(getattr(shared, name).state_dict())
    separate.text_query.load_state_dict(shared.text_key.state_dict())
    for side, key, value in (
        (separate.text_key_value, shared.text_key, shared.text_value),
        (separate.image_key_value, shared.image_query, shared.image_value),
    ):
        side.weight.copy_(torch.cat([key.weight, value.weight]))
        side.bias.copy_(torch.cat([key.bias, value.bias]))
    image, text = normal(2, 9, 32), normal(2, 5, 32, seed=1)
    mask = torch.tensor([[True] * 5, [True, True, False, True, False]])
    for given in (None, mask):
        wanted, found = separate(image, text, given), shared(image, text, given)
        for left, right in zip(wanted, found, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)
    alone = shared(image, text[:1], None)  # one text for the whole batch
    both = shared(image, text[:1].expand(2, -1, -1), None)
    torch.testing.assert_close(alone[0], both[0])


@torch.no_grad()
def test_levels_are_fused_as_one_sequence() -> None:
    fusion, text = TextFusion(OURS), normal(1, 3, 32, seed=1)
    levels = {8: normal(1, 32, 4, 6), 16: normal(1, 32, 2, 3, seed=2)}
    fused, updated = fuse_levels(fusion, levels, text, None)
    tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels.values()], 1)
    wanted, wanted_text = fusion(tokens, text, None)
    torch.testing.assert_close(updated, wanted_text)
    found = torch.cat([level.flatten(2).transpose(1, 2) for level in fused.values()], 1)
    torch.testing.assert_close(found, wanted)
    assert {s: level.shape for s, level in fused.items()} == {
        s: level.shape for s, level in levels.items()
    }


@torch.no_grad()
@pytest.mark.parametrize(("fusion", "touched"), [("levels", {8, 16, 32, 64}), ("bottleneck", {16})])
def test_where_text_is_fused(fusion: Any, touched: set[int]) -> None:
    """Without mixing, text reaches exactly the strides it is fused at."""
    decoder = MultiscalePixelDecoder(
        replace(BASELINE, fusion=fusion, bottleneck_stride=16, mixing_layers=0), (8, 16, 24, 32)
    ).eval()
    sides = ((8, 16), (16, 8), (24, 4), (32, 2))
    maps = [normal(1, channels, side, side) for channels, side in sides]
    first, second = (decoder(maps, normal(1, 3, 32, seed=s), None).maps for s in (1, 2))
    assert {s for s in first if not torch.equal(first[s], second[s])} == touched


@torch.no_grad()
def test_mixing_carries_every_scale_to_every_scale() -> None:
    """A change at the coarsest input moves the finest map, and every level keeps its shape."""
    decoder = MultiscalePixelDecoder(BASELINE, (8, 16, 24, 32)).eval()
    for layer in decoder.mix:
        layer.attention.offsets.bias.zero_()
    sides = ((8, 16), (16, 8), (24, 4), (32, 2))
    maps = [normal(1, channels, side, side) for channels, side in sides]
    text = normal(1, 3, 32)
    before = decoder(maps, text, None)
    assert {s: tuple(m.shape[2:]) for s, m in before.maps.items()} == {
        8: (8, 8), 16: (4, 4), 32: (2, 2), 64: (1, 1),
    }  # fmt: skip
    decoder.fuse.image_scale.zero_()  # so that only mixing connects the scales
    before = decoder(maps, text, None)
    maps[3] = maps[3] + normal(*maps[3].shape, seed=5)
    after = decoder(maps, text, None)
    assert all(not torch.allclose(before.maps[s], after.maps[s]) for s in before.maps)
    assert not torch.allclose(before.mask_features_BMhw, after.mask_features_BMhw)


@torch.no_grad()
def test_boxes_of_every_token_change_nothing() -> None:
    network = Mobius(BASELINE).eval()
    prompt = TextPrompt(normal(1, 3, 384))
    wanted = outputs(network, prompt)
    network.decoder.selection.config = replace(BASELINE, box_every_token=False)
    for left, right in zip(wanted, outputs(network, prompt), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_own_value_projections_that_are_equal_equal_a_shared_one() -> None:
    shared = Mobius(replace(BASELINE, share_value_projection=True)).eval()
    own = Mobius(BASELINE).eval()
    weights = shared.state_dict()
    values = {k: v for k, v in weights.items() if k.startswith("decoder.memory.")}
    for key, value in values.items():
        del weights[key]
        for layer in range(BASELINE.decoder_layers):
            weights[key.replace("memory.", f"memories.{layer}.")] = value
    own.load_state_dict(weights)
    prompt = TextPrompt(normal(1, 3, 384))
    for left, right in zip(outputs(shared, prompt), outputs(own, prompt), strict=True):
        assert torch.equal(left, right)


@torch.no_grad()
def test_masks_of_the_selection() -> None:
    network, prompt = Mobius(BASELINE).eval(), TextPrompt(normal(1, 3, 384))
    out = network(normal(1, 3, 64, 64).sigmoid(), prompt)
    assert out.selection_masks_BQhw is not None
    torch.testing.assert_close(out.selection_masks_BQhw, out.mask_logits(0))
    assert Mobius(OURS).eval()(normal(1, 3, 64, 64), prompt).selection_masks_BQhw is None
    assert network.train()(normal(2, 3, 64, 64), prompt).selection_masks_BQhw is None


def test_names_bring_their_subwords(
    make_sample: Callable[..., Sample], vocabulary: Vocabulary, words: Any
) -> None:
    """In prediction and in training; what is not a name's or an expression's is masked."""
    asked = [Prompt(names=("big cup", "dog")), Prompt(names=("lamp",))]
    prompt = build_batch(asked, words, subwords=True)
    assert prompt.tokens_BTD is not None
    assert prompt.tokens_mask_BT is not None
    assert prompt.tokens_mask_BT.tolist() == [[True] * 3, [True, False, False]]
    torch.testing.assert_close(prompt.tokens_BTD[0], words.encode(["big", "cup", "dog"]).pooled_KD)
    assert build_batch(asked, words).tokens_BTD is None
    samples = [
        make_sample(names=("cup", "dog")),
        make_sample(expression="the cup", referred=(0,), seed=1),
        make_sample(names=None, seed=2),
    ]
    batch = collate(samples, vocabulary, np.random.default_rng(0), (0, 0), subwords=True).prompt
    assert batch.tokens_mask_BT is not None
    assert batch.tokens_mask_BT.tolist() == [[True, True], [True, True], [False, False]]
    plain = collate(samples, vocabulary, np.random.default_rng(0), (0, 0)).prompt
    assert plain.tokens_mask_BT is not None
    assert plain.tokens_mask_BT.tolist() == [[False, False], [True, True], [False, False]]
