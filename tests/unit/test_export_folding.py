"""The picture's normalisation inside the first convolution, gates as convolutions."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from tests.support.models import lively_network
from torch import nn

from mobius_seg.export.folding import with_folded_normalization, with_gates_as_convolutions
from mobius_seg.export.padding import PaddedConv
from mobius_seg.model import Mobius
from mobius_seg.torchvision_shim import ensure_torchvision_ops

ensure_torchvision_ops()

from timm.layers import Conv2dSame, StdConv2d  # noqa: E402 - timm imports torchvision


def maps_of(network: Mobius, pictures: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(network.backbone(network._normalized(pictures)))


def patches(stem: nn.Conv2d) -> nn.Module:
    """A stem without a border, as vision transformers have it."""
    return nn.Conv2d(3, stem.out_channels, 2, 2, bias=False)


def padded(stem: nn.Conv2d) -> nn.Module:
    """A stem of a TensorFlow backbone in an exported graph."""
    return PaddedConv(Conv2dSame(3, stem.out_channels, 3, stride=2, bias=False))


@pytest.mark.parametrize("stem", [None, patches, padded])
def test_the_maps_are_the_same(stem: object) -> None:
    torch.manual_seed(0)
    statistics = {"image_mean": (0.5, 0.4, 0.3), "image_std": (0.2, 0.3, 0.25)}
    network = Mobius(dataclasses.replace(lively_network().config, **statistics)).eval()
    body = network.backbone.body
    if callable(stem):
        body.conv_stem = stem(body.conv_stem)
    pictures = torch.rand(2, 3, 64, 96)
    before = maps_of(network, pictures)
    with_folded_normalization(network)
    assert network._buffers["image_std"] is None
    assert (network._buffers["image_mean"] is None) == (stem is patches)
    for folded, wanted in zip(maps_of(network, pictures), before, strict=True):
        torch.testing.assert_close(folded, wanted, rtol=1e-4, atol=1e-5)


def standardised(stem: nn.Conv2d) -> nn.Module:
    """A stem that standardises its weights as it runs."""
    return StdConv2d(3, stem.out_channels, 3, stride=2, padding=1)


def by_size(stem: nn.Conv2d) -> nn.Module:
    """A stem that pads by the size of its input and says that it pads nothing."""
    return Conv2dSame(3, stem.out_channels, 3, stride=2)


@pytest.mark.parametrize("stem", [standardised, by_size])
def test_other_kinds_of_convolutions_are_left_alone(stem: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    network = lively_network()
    network.backbone.body.conv_stem = stem(network.backbone.body.conv_stem)
    pictures = torch.rand(1, 3, 64, 64)
    before = maps_of(network, pictures)
    with_folded_normalization(network)
    for folded, wanted in zip(maps_of(network, pictures), before, strict=True):
        assert torch.equal(folded, wanted)


def test_gates_are_the_same_as_convolutions() -> None:
    network = lively_network()
    pixels = network.pixel_decoder
    torch.manual_seed(0)
    for gate in pixels.gates.values():
        nn.init.uniform_(gate, -1, 1)
    mixed = torch.randn(1, network.config.width, 2, 3)
    level = torch.zeros(1, network.config.width, 4, 6)
    before = [pixels._gated(int(stride), mixed, level) for stride in pixels.gates]
    with_gates_as_convolutions(network)
    for stride, wanted in zip(pixels.gates, before, strict=True):
        torch.testing.assert_close(pixels._gated(int(stride), mixed, level), wanted)


def test_a_backbone_that_reads_the_picture_twice_is_left_alone() -> None:
    network = lively_network()
    network.backbone.add_module("second", nn.Conv2d(3, 1, 1))
    mean = network.get_buffer("image_mean")
    with_folded_normalization(network)
    assert network.get_buffer("image_mean") is mean
