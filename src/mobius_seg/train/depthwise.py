"""Depthwise convolutions of a CPU in bfloat16, whose gradients oneDNN computes slowly.

In bfloat16 the forward pass is fast, but the gradient of a 5x5 kernel takes a hundred times as long
as that of a 3x3 kernel, and that of the input of a strided convolution two hundred times as long
as in float32 (docs/experiments.md). The same sums in another order are fast: a 5x5 kernel's
gradient is those of four 3x3 kernels that overlap, and strided convolutions go back in float32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_TILE = 3
_Pair = tuple[int, int]


def depthwise_conv(
    x_BCHW: Tensor, weight_C1kk: Tensor, bias_C: Tensor, stride: _Pair, padding: _Pair
) -> Tensor:
    """A depthwise convolution in bfloat16.

    Args:
        x_BCHW: input; converted to bfloat16 where it is not.
        weight_C1kk: one square kernel a channel, likewise.
        bias_C: likewise.
        stride: vertical and horizontal.
        padding: zeros above and below, left and right.

    Returns:
        bfloat16 [B, C, H', W'].
    """
    parts = (part.to(torch.bfloat16) for part in (x_BCHW, weight_C1kk, bias_C))
    out: Tensor = _Depthwise.apply(*parts, stride, padding)  # type: ignore[no-untyped-call]
    return out


class _Depthwise(torch.autograd.Function):
    """The convolution with gradients of its own."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: _Pair, padding: _Pair
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        of_x, of_weight, of_bias = None, None, None
        if ctx.needs_input_grad[0]:
            wide = grad.dtype if ctx.stride == (1, 1) else torch.float32
            g, seen, kernel = grad.to(wide), x.to(wide), weight.to(wide)
            of_x = _backward(g, seen, kernel, ctx.stride, ctx.padding, of_input=True).to(x.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(grad, x, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None, None


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: _Pair, padding: _Pair, *, of_input: bool
) -> Tensor:
    """One of the two gradients that torch computes."""
    mask = [of_input, not of_input, False]
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, [1, 1], False, [0, 0], len(weight), mask
    )
    found: Tensor = of_x if of_input else of_weight
    return found


def _weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: _Pair, padding: _Pair
) -> Tensor:
    """Gradient of the kernels; larger ones than 3x3 from overlapping tiles of 3x3."""
    side = weight.shape[-1]
    if side <= _TILE:
        return _backward(grad, x, weight, stride, padding, of_input=False)
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    reach = [(grad.shape[2 + axis] - 1) * stride[axis] + _TILE for axis in (0, 1)]
    found = torch.empty_like(weight)
    starts = [min(start, side - _TILE) for start in range(0, side, _TILE)]
    for top in starts:
        for left in starts:
            rows, columns = slice(top, top + _TILE), slice(left, left + _TILE)
            seen = padded[:, :, top : top + reach[0], left : left + reach[1]]
            seen = seen.contiguous(memory_format=torch.channels_last)
            tile = weight[:, :, rows, columns].contiguous()
            found[:, :, rows, columns] = _backward(grad, seen, tile, stride, (0, 0), of_input=False)
    return found
