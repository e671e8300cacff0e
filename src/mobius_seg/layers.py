"""Small parts that several rooms of the network share."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_GROUPS = 32


class MLP(nn.Sequential):
    """Linear layers with ReLU between them.

    Args:
        widths: input width, hidden widths, output width.
    """

    def __init__(self, *widths: int) -> None:
        """See the class."""
        parts: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            if i:
                parts.append(nn.ReLU())
            parts.append(nn.Linear(before, after))
        super().__init__(*parts)


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm (folds into it at inference), optional ReLU.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        kernel: odd kernel size, "same" padding.
        stride: spatial stride.
        groups: convolution groups.
        activation: add a ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: bool = False,
    ) -> None:
        """See the class."""
        parts: list[nn.Module] = [
            nn.Conv2d(
                in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
            ),
            nn.BatchNorm2d(out_channels),
        ]
        if activation:
            parts.append(nn.ReLU())
        super().__init__(*parts)


class ConvGroup(nn.Sequential):
    """Convolution and group norm, as in the systems that the baseline stands for.

    Args:
        in_channels: input channels.
        out_channels: output channels; groups hold four of them or more.
        kernel: odd kernel size, "same" padding.
        stride: spatial stride.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, *, stride: int = 1
    ) -> None:
        """See the class."""
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2),
            nn.GroupNorm(math.gcd(_GROUPS, out_channels // 4), out_channels),
        )


class SeparableRefinement(nn.Module):
    """Residual depthwise 3x3 and pointwise 1x1 convolution (MobileNet form, Howard et al. 2017).

    Args:
        channels: input and output channels.
    """

    def __init__(self, channels: int) -> None:
        """See the class."""
        super().__init__()
        self.depthwise = ConvNorm(channels, channels, 3, groups=channels, activation=True)
        self.pointwise = ConvNorm(channels, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Refine a map [B, C, H, W] -> [B, C, H, W]."""
        refined: Tensor = x_BCHW + self.pointwise(self.depthwise(x_BCHW))
        return refined


class WideRefinement(nn.Module):
    """Residual depthwise convolution and two-layer pointwise MLP (ConvNeXt form, Liu et al. 2022).

    Batch norm and ReLU stand for layer norm and GELU, so that the norms fold into the convolutions.

    Args:
        channels: input and output channels.
        kernel: odd size of the depthwise convolution.
        expansion: hidden channels of the MLP through ``channels``.
    """

    def __init__(self, channels: int, kernel: int, expansion: int) -> None:
        """See the class."""
        super().__init__()
        hidden = expansion * channels
        # Without scale and shift of its own: those of the next norm do the same.
        self.depthwise = nn.Sequential(
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False),
            nn.BatchNorm2d(channels, affine=False),
        )
        self.expand = ConvNorm(channels, hidden, activation=True)
        self.reduce = ConvNorm(hidden, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Refine a map [B, C, H, W] -> [B, C, H, W]."""
        refined: Tensor = x_BCHW + self.reduce(self.expand(self.depthwise(x_BCHW)))
        return refined


class FeedForward(nn.Module):
    """Pre-norm feed-forward residual (Vaswani et al. 2017) with ReLU.

    Args:
        width: token width.
        hidden: hidden width.
    """

    def __init__(self, width: int, hidden: int) -> None:
        """See the class."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden, width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        out: Tensor = x_BNC + self.mlp(self.norm(x_BNC))
        return out


def split_heads(x_BNC: Tensor, heads: int) -> Tensor:
    """[B, N, C] -> [B, heads, N, C / heads]."""
    batch, count, width = x_BNC.shape
    return x_BNC.reshape(batch, count, heads, width // heads).transpose(1, 2)


def merge_heads(x_BhND: Tensor) -> Tensor:
    """[B, heads, N, D] -> [B, N, heads * D]."""
    batch, heads, count, dim = x_BhND.shape
    return x_BhND.transpose(1, 2).reshape(batch, count, heads * dim)


def attend(
    query_BhND: Tensor, key_BhMD: Tensor, value_BhMD: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017).

    In an exported graph it is written out: torch's own decomposition guards rows that may read
    nothing with six more operators, which no row here needs and which keep runtimes for phones from
    running the whole in one part.

    Args:
        query_BhND: [B, heads, N, D].
        key_BhMD: [B, heads, M, D].
        value_BhMD: [B, heads, M, D].
        bias: added to the products, or bool with False where nothing is read (some key of each row
            is); broadcastable to [B, heads, N, M].

    Returns:
        [B, heads, N, D].
    """
    read_BhND: Tensor
    if not torch.compiler.is_exporting():
        read_BhND = F.scaled_dot_product_attention(query_BhND, key_BhMD, value_BhMD, attn_mask=bias)
        return read_BhND
    scale = query_BhND.shape[-1] ** -0.5
    product_BhNM = (query_BhND * scale) @ key_BhMD.transpose(2, 3)
    if bias is not None and bias.dtype == torch.bool:
        product_BhNM = product_BhNM.masked_fill(~bias, -torch.inf)
    elif bias is not None:
        product_BhNM = product_BhNM + bias
    read_BhND = product_BhNM.softmax(-1) @ value_BhMD
    return read_BhND


class SelfAttention(nn.Module):
    """Pre-norm multi-head self-attention residual; positions are added to queries and keys.

    Args:
        width: token width.
        heads: attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        """See the class."""
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query_key = nn.Linear(width, 2 * width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BNC: Tensor, position_BNC: Tensor) -> Tensor:
        """[B, N, C] tokens and their positions (broadcastable) -> [B, N, C]."""
        normed = self.norm(x_BNC)
        query, key = self.query_key(normed + position_BNC).chunk(2, dim=-1)
        mixed = attend(
            split_heads(query, self.heads),
            split_heads(key, self.heads),
            split_heads(self.value(normed), self.heads),
        )
        out: Tensor = x_BNC + self.out(merge_heads(mixed))
        return out


def sine_position(values: Tensor, width: int, temperature: float = 20.0) -> Tensor:
    """Sine encoding of coordinates (as in DETR, Carion et al. 2020, scaled to 0..1 input).

    Args:
        values: [..., A] coordinates in 0..1, A per element.
        width: channels of the result, a multiple of 2 * A.
        temperature: ratio of the longest to the shortest wavelength step; 20 suits maps of a few
            dozen cells (DAB-DETR, Liu et al. 2022).

    Returns:
        [..., width].
    """
    axes = values.shape[-1]
    count = width // (2 * axes)
    steps = torch.arange(count, device=values.device, dtype=values.dtype) / max(count, 1)
    angles = values.unsqueeze(-1) * (2 * math.pi * temperature**steps * 0.5)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def grid_centers(height: int, width: int, like: Tensor) -> Tensor:
    """Centres [H * W, 2] (x, y in 0..1) of the cells of a map, on the device of ``like``."""
    y = (torch.arange(height, device=like.device, dtype=torch.float32) + 0.5) / height
    x = (torch.arange(width, device=like.device, dtype=torch.float32) + 0.5) / width
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([grid_x.flatten(), grid_y.flatten()], dim=-1)


def cell_size(height: int, width: int, like: Tensor, cells: float = 1.0) -> Tensor:
    """Width and height [2] of so many cells of a map, as shares of it.

    A tensor is divided by each side, so that an exported graph of any size computes it from the
    size that it is given.

    Args:
        height: H of the map.
        width: W.
        like: device and type of the result.
        cells: how many.
    """
    return torch.cat([like.new_full((1,), cells) / side for side in (width, height)])


def unit(x: Tensor) -> Tensor:
    """L2-normalised along the last axis, as ``F.normalize`` with fewer operators in a graph."""
    return x / length(x)


def length(x: Tensor) -> Tensor:
    """L2 norms [..., 1] of the last axis, at least 1e-12."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.clamp_min(1e-12)


def upsample(x_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resizing to a height and width; a map of that size stays what it is.

    In exported graphs of one size whole factors are said as factors, not as sides: ONNX Runtime
    then keeps the blocked layout of the convolutions around it.
    """
    rows, columns = x_BCHW.shape[2:]
    if (rows, columns) == (height, width):
        return x_BCHW
    whole = all(isinstance(side, int) for side in (rows, columns, height, width))
    if torch.compiler.is_exporting() and whole and not (height % rows or width % columns):
        by = (float(height // rows), float(width // columns))
        return F.interpolate(x_BCHW, scale_factor=by, mode="bilinear", align_corners=False)
    return F.interpolate(x_BCHW, size=(height, width), mode="bilinear", align_corners=False)


def token_maps(value_BNC: Tensor, shapes: Sequence[tuple[int, int]], heads: int) -> list[Tensor]:
    """Values [B, N, C] of consecutive levels -> one map [B * heads, C / heads, h, w] per level."""
    batch = value_BNC.shape[0]
    parts = torch.split(value_BNC, [height * width for height, width in shapes], 1)
    return [
        part.transpose(1, 2).reshape(batch * heads, -1, height, width)
        for part, (height, width) in zip(parts, shapes, strict=True)
    ]


def head_mlp(width: int, out: int, layers: int) -> MLP:
    """The MLP of a box or mask head: ``layers`` linear layers, all but the last of ``width``."""
    return MLP(*[width] * layers, out)


def rows_of(x: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows of the first axis; neighbours are not copied."""
    first = rows[0]
    if list(rows) == list(range(first, first + len(rows))):
        return x[first : first + len(rows)]
    return x[list(rows)]


def flatten_map(x_BCHW: Tensor) -> Tensor:
    """[B, C, H, W] -> tokens [B, H * W, C]."""
    return x_BCHW.flatten(2).transpose(1, 2)


def inverse_sigmoid(x: Tensor, eps: float = 1e-4) -> Tensor:
    """Logit of a probability, clamped to [eps, 1 - eps]."""
    return torch.logit(x.clamp(eps, 1 - eps))


def move_boxes(boxes: Tensor, step: Tensor, form: str) -> Tensor:
    """Boxes after the step that a head predicted.

    Args:
        boxes: [..., 4] cxcywh in 0..1.
        step: [..., 4], of the same meaning.
        form: ``logit``: added to the boxes' logits (Deformable DETR, Zhu et al. 2021);
            ``relative``: the centre moves by shares of the sides, the sides grow by factors
            exp(step) (R-CNN, Girshick et al. 2014), so that a step means the same everywhere. What
            leaves the picture is put on its border; the gradient passes as if it were not.
    """
    if form == "logit":
        return (step + inverse_sigmoid(boxes)).sigmoid()
    center, side = boxes[..., :2], boxes[..., 2:]
    moved = center + step[..., :2].clamp(-_FARTHEST, _FARTHEST) * side
    grown = side * step[..., 2:].clamp(-_MOST_GROWTH, _MOST_GROWTH).exp()
    free = torch.cat([moved, grown], -1)
    held = torch.cat([moved.clamp(0.0, 1.0), grown.clamp(_LEAST_SIDE, 1.0)], -1)
    return held.detach() + (free - free.detach()) if free.requires_grad else held


_LEAST_SIDE = 1e-5  # of a box, as a share of the picture
_FARTHEST = 8.0  # sides that a centre moves at most
_MOST_GROWTH = 3.5  # logarithm of the most that a side grows
