"""The picture's normalisation inside the first convolution."""

import dataclasses

import pytest
import torch
from tests.support.models import lively_network
from torch import nn

from mobius_seg.export.folding import with_folded_normalization
from mobius_seg.export.padding import PaddedConv, with_constant_padding
from mobius_seg.model import Mobius

LEVEL, UNLIKE = (0.4, 0.4, 0.4), (0.5, 0.4, 0.3)


def maps_of(network: Mobius, pictures: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(network.backbone(network._normalized(pictures)))


def padded_by_size(network: Mobius) -> None:
    """As the backbones from TensorFlow: padding is that of Conv2dSame, written out."""
    body = network.backbone.body
    body.conv_stem = PaddedConv(body.conv_stem, [0, 1, 0, 1])
    body.conv_stem.conv.padding = (0, 0)


@pytest.mark.parametrize("mean", [LEVEL, UNLIKE])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_the_maps_are_the_same(mean: tuple[float, float, float], asymmetric: bool) -> None:
    config = dataclasses.replace(
        lively_network().config, image_mean=mean, image_std=(0.2, 0.3, 0.25)
    )
    network = Mobius(config).eval()
    if asymmetric:
        padded_by_size(network)
    pictures = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    before = maps_of(network, pictures)
    with_constant_padding(network)
    with_folded_normalization(network)
    assert network._buffers["image_std"] is None
    assert (network._buffers["image_mean"] is None) == (mean == LEVEL)
    for folded, wanted in zip(maps_of(network, pictures), before, strict=True):
        torch.testing.assert_close(folded, wanted, rtol=1e-4, atol=1e-5)
    stem = network.backbone.body.conv_stem
    assert (type(stem) is PaddedConv) == (mean == LEVEL or asymmetric)


def test_a_backbone_that_reads_the_picture_twice_is_left_alone() -> None:
    network = lively_network()
    network.backbone.add_module("second", nn.Conv2d(3, 1, 1))
    mean = network.get_buffer("image_mean")
    with_folded_normalization(network)
    assert network.get_buffer("image_mean") is mean
