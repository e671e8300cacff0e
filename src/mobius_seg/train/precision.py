"""Number format and memory layout that a device computes fastest in."""

import torch
from torch import nn

from mobius_seg.model import Mobius


def choose_precision(precision: str) -> str:
    """Accelerate's name of the precision: bf16 only where the device computes it natively."""
    if precision == "fp32":
        return "no"
    if precision == "bf16":
        return "bf16"
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"


def channels_last(network: Mobius) -> Mobius:
    """Lay out the convolution kernels for channels-last images, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return network
