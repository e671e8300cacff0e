"""The picture's normalisation inside the first convolution, for graphs alone.

Weights are divided by the deviation, and where no border of zeros stands against it the mean
becomes part of the bias. In real numbers the outputs are the same; in floating point they differ by
rounding. (A border padded with the mean would do for all convolutions, but runtimes fuse padding by
zero alone: ONNX Runtime took as long for the padding as for taking the mean off.)
"""

from torch import nn

from mobius_seg.export.padding import PaddedConv
from mobius_seg.model import Mobius

_Conv = PaddedConv | nn.Conv2d


def with_folded_normalization(network: Mobius) -> None:
    """Normalise the picture inside the first convolution of the backbone, as far as that goes.

    Nothing changes where the backbone reads the picture in more places than one.

    Args:
        network: changed in place.
    """
    firsts = [
        child
        for parent in network.backbone.modules()
        if not isinstance(parent, PaddedConv)
        for child in parent.children()
        if isinstance(child, _Conv) and _inner(child).in_channels == 3
    ]
    if len(firsts) != 1:
        return
    conv = _inner(firsts[0])
    mean, std = network.get_buffer("image_mean"), network.get_buffer("image_std")
    conv.weight = nn.Parameter(conv.weight.detach() / std, requires_grad=False)
    network.register_buffer("image_std", None, persistent=False)
    assert not isinstance(conv.padding, str), "backbones state their padding"
    if isinstance(firsts[0], PaddedConv) or any(conv.padding):
        return
    shift = -(conv.weight * mean).sum((1, 2, 3))
    conv.bias = nn.Parameter(shift if conv.bias is None else conv.bias + shift, requires_grad=False)
    network.register_buffer("image_mean", None, persistent=False)


def _inner(layer: _Conv) -> nn.Conv2d:
    """The convolution itself."""
    return layer.conv if isinstance(layer, PaddedConv) else layer
