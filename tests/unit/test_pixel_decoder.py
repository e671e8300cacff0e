"""Gather, fuse, mix, scatter."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mobius_seg import fusion as fusion_module
from mobius_seg.config import ModelConfig
from mobius_seg.fusion import TextFusion
from mobius_seg.pixel_decoder import Gather, PixelDecoder, resample, resize_like
from mobius_seg.presets import get_preset

CONFIG = get_preset("mobius-test")
CHANNELS = (8, 12, 16, 24)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def backbone_maps(height: int = 96, width: int = 160, batch: int = 2) -> list[Tensor]:
    sizes = [(height // s, width // s) for s in (4, 8, 16, 32)]
    return [normal(batch, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]


def built(**changes: Any) -> tuple[ModelConfig, PixelDecoder]:
    config = replace(CONFIG, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return config, PixelDecoder(config, CHANNELS).eval()


@torch.no_grad()
@pytest.mark.parametrize("mixing", ["plain", "deformable"])
@pytest.mark.parametrize("stride", [8, 16, 32, 64])
def test_every_bottleneck_in_both_forms_of_mixing(mixing: str, stride: int) -> None:
    config, decoder = built(mixing=mixing, bottleneck_stride=stride)
    out = decoder(backbone_maps(), normal(1, 4, config.width), None)
    strides = {8, 16, 32, 64} if stride == 64 else {8, 16, 32}
    assert set(out.maps) == strides
    for s, level in out.maps.items():
        assert level.shape == (2, config.width, -(-96 // s), -(-160 // s))
        assert torch.isfinite(level).all()
    assert out.mask_features_BMhw.shape == (2, config.mask_width, 24, 40)
    assert out.text_BTC.shape == (2, 3, config.width)  # without the object token


@torch.no_grad()
@pytest.mark.parametrize("field", ["memory_strides", "token_strides"])
def test_stride_64_is_made_where_it_is_read(field: str) -> None:
    config, decoder = built(**{field: (16, 64)})
    assert 64 in decoder(backbone_maps(), normal(1, 1, config.width), None).maps


@torch.no_grad()
def test_all_scales_reach_the_bottleneck_with_softmax_weights() -> None:
    gather = Gather(CONFIG, (8, 16, 32))
    lateral4 = normal(1, CONFIG.mask_width, 16, 16)
    laterals = {s: normal(1, CONFIG.width, 64 // s, 64 // s, seed=s) for s in (8, 16, 32)}
    plain = gather(lateral4, laterals)
    assert plain.shape == (1, CONFIG.width, 2, 2)
    for stride in (8, 16, 32):
        changed = {**laterals, stride: laterals[stride] + 1}
        assert not torch.allclose(gather(lateral4, changed), plain)
    assert not torch.allclose(gather(lateral4 + 1, laterals), plain)
    gather.weights.copy_(torch.tensor([-50.0, -50.0, 50.0, -50.0]))
    only = 4 * gather.squeeze["16"](resample(laterals[16], laterals[32]))
    torch.testing.assert_close(gather(lateral4, laterals), only, rtol=1e-4, atol=1e-4)


def test_resampling_pools_down_and_interpolates_up() -> None:
    fine, coarse = normal(1, 2, 4, 6), torch.zeros(1, 2, 2, 3)
    blocks = fine.reshape(1, 2, 2, 2, 3, 2).mean((3, 5))
    torch.testing.assert_close(resample(fine, coarse), blocks)
    flat = torch.ones(1, 2, 2, 3)
    torch.testing.assert_close(resample(flat, fine), torch.ones(1, 2, 4, 6))
    assert resize_like(fine, fine) is fine


@torch.no_grad()
def test_image_and_text_read_each_other() -> None:
    fusion, image, text = TextFusion(CONFIG), normal(2, 6, 32), normal(1, 4, 32, seed=1)
    image_out, text_out = fusion(image, text, None)
    assert image_out.shape == image.shape
    assert text_out.shape == (2, 4, 32)  # the text that an image has read is its own
    assert not torch.allclose(text_out[0], text_out[1])
    other_image, other_text = fusion(image, text.flip(1), None)
    torch.testing.assert_close(other_image, image_out, rtol=1e-4, atol=1e-5)  # order is nothing
    torch.testing.assert_close(other_text, text_out.flip(1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fusion(image, 2 * text + 1, None)[0], image_out)


@torch.no_grad()
def test_masked_text_is_not_read() -> None:
    fusion, image, text = TextFusion(CONFIG), normal(2, 6, 32), normal(2, 5, 32, seed=1)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    padded = fusion(image, text, mask)
    alone = fusion(image[:1], text[:1, :3], None)
    torch.testing.assert_close(padded[0][:1], alone[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(padded[1][:1, :3], alone[1], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_chunks_of_text_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fusion, image, text = TextFusion(CONFIG), normal(2, 6, 32), normal(1, 11, 32, seed=1)
    whole = fusion(image, text, None)
    monkeypatch.setattr(fusion_module, "_TEXT_CHUNK", 4)
    for left, right in zip(whole, fusion(image, text, None), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_gates_let_the_bottleneck_through() -> None:
    """Closed gates: neither text nor mixing reaches a map; open ones: both do."""
    config, decoder = built(bottleneck_stride=16)
    assert set(decoder.gates) == {"16", "32"}
    assert all(float(gate[0]) == pytest.approx(config.gate_init) for gate in decoder.gates.values())
    maps, texts = backbone_maps(), [normal(1, 3, config.width, seed=s) for s in (1, 2)]
    opened = [decoder(maps, text, None) for text in texts]
    assert all(not torch.allclose(opened[0].maps[s], opened[1].maps[s]) for s in (8, 16, 32))
    assert not torch.allclose(opened[0].mask_features_BMhw, opened[1].mask_features_BMhw)
    for gate in decoder.gates.values():
        gate.zero_()
    closed = [decoder(maps, text, None) for text in texts]
    assert all(torch.equal(closed[0].maps[s], closed[1].maps[s]) for s in (8, 16, 32))


@torch.no_grad()
@pytest.mark.parametrize("mixing", ["plain", "deformable"])
def test_mixing_carries_information_across_the_picture(mixing: str) -> None:
    """A change at one place of a map is seen there most, and elsewhere too."""
    config, decoder = built(mixing=mixing, bottleneck_stride=8, mixing_layers=1)
    maps, text = backbone_maps(64, 64, 1), normal(1, 1, config.width)
    changed = [m.clone() for m in maps]
    changed[1][..., 1, 6] += 5
    before = layer_output(decoder, maps, text)
    after = layer_output(decoder, changed, text)
    reach = (before - after).abs().amax(-1)[0]
    assert int(reach.argmax()) == 8 * 1 + 6
    if mixing == "plain":
        assert bool((reach > 0).all())
    else:
        neighbours = reach.reshape(8, 8)[:4, 4:]
        assert int((neighbours > 1e-6).sum()) > 6  # the rays around each token
        assert not reach.reshape(8, 8)[6:, :2].any()


def layer_output(decoder: PixelDecoder, maps: list[Tensor], text: Tensor) -> Tensor:
    """Tokens behind the first mixing layer."""
    seen: list[Tensor] = []
    hook = decoder.mix[0].register_forward_hook(lambda _m, _a, out: seen.append(out))
    decoder(maps, text, None)
    hook.remove()
    return seen[0]
