"""Counting multiply-accumulates: against hand-made numbers and torch's own counter."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mobius_seg.cost.dispatch import OperatorCounter, count
from mobius_seg.cost.parts import MASK_PRODUCT
from mobius_seg.cost.record import Profile
from mobius_seg.errors import InputError
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.profile import preset_profile
from mobius_seg.types import TextPrompt


def counted(function: object, device: str = "cpu", *shapes: tuple[int, ...]) -> int:
    """Multiply-accumulates of a function of tensors of these shapes."""
    inputs = [torch.zeros(shape, device=device) for shape in shapes]
    counter = OperatorCounter()
    with torch.no_grad(), counter, counter.inside("part"):
        function(*inputs)  # type: ignore[operator]
    return counter.macs.get("part", 0)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_operators_by_hand(device: str) -> None:
    assert counted(torch.matmul, device, (3, 4), (4, 5)) == 3 * 4 * 5
    assert counted(torch.matmul, device, (3, 4), (4,)) == 3 * 4
    assert counted(torch.matmul, device, (2, 3, 4), (2, 4, 5)) == 2 * 3 * 4 * 5
    assert counted(F.linear, device, (7, 4), (5, 4), (5,)) == 7 * 4 * 5
    assert counted(torch.baddbmm, device, (2, 3, 5), (2, 3, 4), (2, 4, 5)) == 2 * 3 * 4 * 5
    assert counted(F.conv2d, device, (2, 6, 9, 8), (4, 6, 3, 3)) == 2 * 4 * 7 * 6 * 6 * 9
    depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, device=device)
    assert counted(depthwise, device, (1, 6, 8, 8)) == 6 * 64 * 9
    doubling = nn.ConvTranspose2d(6, 4, 2, 2, device=device)
    assert counted(doubling, device, (1, 6, 8, 8)) == 64 * 6 * 4 * 4
    sampled = counted(
        partial(F.grid_sample, align_corners=False), device, (2, 3, 8, 8), (2, 5, 7, 2)
    )
    assert sampled == 4 * 2 * 3 * 5 * 7
    attended = counted(
        F.scaled_dot_product_attention, device, (2, 4, 10, 8), (2, 4, 20, 8), (2, 4, 20, 8)
    )
    assert attended == 2 * (2 * 4) * 10 * 20 * 8
    assert counted(lambda x: (x + x).softmax(-1).mean(), device, (4, 4)) == 0


def test_attention_with_a_bias_costs_the_same() -> None:
    query, key, bias = (torch.zeros(1, 2, n, m) for n, m in ((3, 4), (5, 4), (3, 5)))
    counter = OperatorCounter()
    with torch.no_grad(), counter, counter.inside("part"):
        F.scaled_dot_product_attention(query, key, key, attn_mask=bias)
    assert counter.macs == {"part": 2 * 2 * 3 * 5 * 4}


def test_an_unknown_operator_is_an_error() -> None:
    with pytest.raises(NotImplementedError, match="linalg_lu"):
        counted(torch.linalg.lu_factor, "cpu", (4, 4))


def test_grid_sample_on_meta_has_the_shape_of_the_real_one() -> None:
    with torch.no_grad(), (counter := OperatorCounter()), counter.inside("part"):
        out = F.grid_sample(
            torch.zeros(2, 3, 8, 9, device="meta"),
            torch.zeros(2, 5, 7, 2, device="meta"),
            align_corners=False,
        )
    assert out.shape == (2, 3, 5, 7)


def profile_of(network: Mobius, names: int = 3) -> Profile:
    return count(network, torch.zeros(1, 3, 64, 64), TextPrompt(torch.zeros(1, names, 384)))


def test_parts_add_up_and_agree_with_torch() -> None:
    """torch misses attention on the CPU and grid_sample; elsewhere both must agree."""
    network = Mobius(get_preset("mobius-test")).eval()
    profile = profile_of(network)
    assert profile.total_parameters == sum(p.numel() for p in network.parameters())
    assert profile.gmac == pytest.approx(sum(profile.macs.values()) / 1e9)
    assert profile.part_gmac("pixel_decoder") > profile.part_gmac("pixel_decoder.mix") > 0
    queries, width = network.config.queries, network.config.mask_width
    assert profile.macs[MASK_PRODUCT] == queries * width * 16 * 16
    reference = FlopCounterMode(display=False)
    with torch.no_grad(), reference:
        network.backbone(torch.zeros(1, 3, 64, 64))
    assert profile.macs["backbone"] * 2 == reference.get_total_flops()


def test_meta_and_cpu_agree() -> None:
    network = Mobius(get_preset("mobius-test")).eval()
    assert profile_of(network, 80).macs == preset_profile("mobius-test", names=80).macs
    assert not network.decoder.selection._forward_hooks  # what was hooked in is taken out again


def test_size_and_names_cost() -> None:
    network = Mobius(get_preset("mobius-test")).eval()
    small = profile_of(network, 10)
    many = profile_of(network, 100)
    wide = count(network, torch.zeros(1, 3, 64, 128), TextPrompt(torch.zeros(1, 10, 384)))
    assert wide.part_gmac("backbone") == pytest.approx(2 * small.part_gmac("backbone"), rel=0.01)
    assert many.part_gmac("backbone") == small.part_gmac("backbone")
    assert many.part_gmac("pixel_decoder.fuse") > small.part_gmac("pixel_decoder.fuse")


def test_size_of_a_preset() -> None:
    wide = preset_profile("mobius-test", (64, 128), 3)
    network = Mobius(get_preset("mobius-test")).eval()
    prompt = TextPrompt(torch.zeros(1, 3, 384))
    assert wide.macs == count(network, torch.zeros(1, 3, 64, 128), prompt).macs
    with pytest.raises(InputError, match="unknown model"):
        preset_profile("mobius-x")
    with pytest.raises(InputError, match="multiples of 32"):
        preset_profile("mobius-test", 48)
