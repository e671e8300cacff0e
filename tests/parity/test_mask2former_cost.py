"""The dispatch counter on transformers' Mask2Former against torch's own flop counter.

Both must agree on every operator that torch counts; what torch leaves out stands apart, by name.
"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mobius_seg.cost.dispatch import OperatorCounter
from mobius_seg.torchvision_shim import ensure_torchvision_ops

ensure_torchvision_ops()

from transformers import (  # noqa: E402
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    ResNetConfig,
)

# Attention on the CPU and grid_sample are the two that torch counts as nothing.
UNKNOWN_TO_TORCH = {"_scaled_dot_product_flash_attention_for_cpu", "grid_sampler_2d"}


def both_counts(
    size: tuple[int, int], **sizes: int
) -> tuple[dict[str, int], dict[str, int], OperatorCounter]:
    """Operators by torch's count in MAC, the same by ours, and our counter."""
    backbone = ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    config = Mask2FormerConfig(backbone_config=backbone, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Mask2FormerForUniversalSegmentation(config).eval()
    reference, counter = FlopCounterMode(display=False), OperatorCounter()
    with torch.no_grad(), reference, counter, counter.inside("all"):
        network(pixel_values=torch.zeros(1, 3, *size))
    theirs = {
        str(packet).removeprefix("aten."): flops // 2
        for packet, flops in reference.get_flop_counts()["Global"].items()
    }
    ours = {name: macs for name, macs in counter.by_operator.items() if name in theirs}
    return theirs, ours, counter


def check(size: tuple[int, int], **sizes: int) -> int:
    """Compare, and return the multiply-accumulates that torch does not see."""
    theirs, ours, counter = both_counts(size, **sizes)
    assert theirs
    assert ours == theirs
    apart = {name: macs for name, macs in counter.by_operator.items() if name not in theirs}
    assert set(apart) <= UNKNOWN_TO_TORCH
    assert sum(theirs.values()) + sum(apart.values()) == counter.macs["all"]
    return sum(apart.values())


def test_small() -> None:
    assert check((64, 96), encoder_layers=1, decoder_layers=2, num_queries=7) > 0


@pytest.mark.long
def test_resnet50_at_the_size_of_the_published_tables() -> None:
    """ResNet-50, random weights, 800x1344."""
    assert check((800, 1344), num_queries=100) > 0
