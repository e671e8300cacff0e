"""Weights that say the same in a form that runtimes compute faster, for graphs alone.

* The picture's normalisation goes into the first convolution: its weights are divided by the
  deviation, and where no border of zeros stands against it the mean becomes part of the bias. (A
  border padded with the mean would do for all convolutions, but runtimes fuse padding by zero
  alone: ONNX Runtime took as long for the padding as for taking the mean off.)
* The gates of the pixel decoder become depthwise 1x1 convolutions before the resizing in place of
  products after it: ONNX Runtime then keeps the blocked layout of the convolutions around them.

In real numbers the outputs are the same; in floating point they differ by rounding.
"""

from torch import nn

from mobius_seg.export.padding import PaddedConv
from mobius_seg.model import Mobius
from mobius_seg.pixel_decoder import PixelDecoder

_Conv = PaddedConv | nn.Conv2d


def with_folded_normalization(network: Mobius) -> None:
    """Normalise the picture inside the first convolution of the backbone, as far as that goes.

    Nothing changes where the backbone reads the picture in more places than one, or by another kind
    of convolution.

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
    # Other kinds of convolutions standardise their weights as they run, or pad by the size.
    plain = isinstance(firsts[0], PaddedConv) or type(conv) is nn.Conv2d
    if not plain or conv.groups != 1:
        return
    mean, std = network.get_buffer("image_mean"), network.get_buffer("image_std")
    conv.weight = nn.Parameter(conv.weight.detach() / std, requires_grad=False)
    network.register_buffer("image_std", None, persistent=False)
    assert not isinstance(conv.padding, str), "backbones state their padding"
    if isinstance(firsts[0], PaddedConv) or any(conv.padding):
        return
    shift = -(conv.weight * mean).sum((1, 2, 3))
    conv.bias = nn.Parameter(shift if conv.bias is None else conv.bias + shift, requires_grad=False)
    network.register_buffer("image_mean", None, persistent=False)


def with_gates_as_convolutions(network: Mobius) -> None:
    """Put the gates of the pixel decoder into layers; the baseline has none.

    Args:
        network: changed in place.
    """
    pixels = network.pixel_decoder
    if not isinstance(pixels, PixelDecoder):
        return
    layers = nn.ModuleDict()
    for stride, gate in pixels.gates.items():
        layer = nn.Conv2d(len(gate), len(gate), 1, groups=len(gate), bias=False)
        layer.weight = nn.Parameter(gate.detach().view(-1, 1, 1, 1).clone(), requires_grad=False)
        layers[stride] = layer
    pixels.gate_layers = layers


def _inner(layer: _Conv) -> nn.Conv2d:
    """The convolution itself."""
    return layer.conv if isinstance(layer, PaddedConv) else layer
