"""What a forward pass costs, part by part: parameters and multiply-accumulates (GMAC).

Counted are convolutions, matrix products, attention and ``grid_sample`` (4 MAC per value read, the
four corners of a bilinear sample). Element-wise work, norms, reductions, pooling and resizing are
left out, as in the tables of detection papers, which print the same figure as "FLOPs". torch's own
counter knows neither ``grid_sample`` nor attention on the CPU; here an operator that is in no list
is an error, so that nothing is left out by accident.

``python -m mobius_seg.profile`` prints the figures that the presets state.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from mobius_seg.model import Mobius
from mobius_seg.presets import PRESETS, get_preset
from mobius_seg.types import TextPrompt

MASK_PRODUCT = "mask product"
# Module name -> part; of several names that fit, the longest counts.
_PARTS = {
    "backbone": "backbone",
    "name_map": "name_map",
    "text_projection": "text",
    "object_token": "text",
    "object_column": "text",
    "pixel_decoder.lateral4": "pixel_decoder.laterals",
    "pixel_decoder.laterals": "pixel_decoder.laterals",
    "pixel_decoder.gather": "pixel_decoder.gather",
    "pixel_decoder.fuse": "pixel_decoder.fuse",
    "pixel_decoder.mix": "pixel_decoder.mix",
    "pixel_decoder.gates": "pixel_decoder.scatter",
    "pixel_decoder.refine": "pixel_decoder.scatter",
    "pixel_decoder.to_mask": "pixel_decoder.mask_features",
    "pixel_decoder.refine4": "pixel_decoder.mask_features",
    "pixel_decoder.mask_features": "pixel_decoder.mask_features",
    "decoder.selection": "selection",
    "decoder.memory": "decoder.memory",
    "decoder.position": "decoder.layers",
    "decoder.layers": "decoder.layers",
    "decoder.heads": "heads",
}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Cost of one forward pass.

    Attributes:
        parameters: number of parameters by part.
        macs: multiply-accumulates by part, in the order of the forward pass.
    """

    parameters: dict[str, int]
    macs: dict[str, int]

    @property
    def total_parameters(self) -> int:
        """Number of parameters of the whole network."""
        return sum(self.parameters.values())

    @property
    def gmac(self) -> float:
        """Cost of the whole pass in 10^9 multiply-accumulates."""
        return sum(self.macs.values()) / 1e9

    def part_gmac(self, part: str) -> float:
        """Cost in GMAC of a part and of what lies under it.

        Args:
            part: a key of :attr:`macs`, or what comes before a dot in several of them, as
                ``pixel_decoder`` and ``decoder``.
        """
        return sum(n for key, n in self.macs.items() if f"{key}.".startswith(f"{part}.")) / 1e9


def count(network: Mobius, images_B3HW: Tensor, prompt: TextPrompt) -> Profile:
    """Run the network once and count, the masks of all queries of the last layer included.

    Args:
        network: on any device, the meta device included; it is counted in the mode it is in.
        images_B3HW: [B, 3, H, W], height and width multiples of 32.
        prompt: what is asked; its columns and tokens cost too.

    Raises:
        NotImplementedError: an operator ran that is neither counted nor known to be free.
    """
    counter = _Counter()
    with counter.following(network), torch.no_grad(), counter:
        output = network(images_B3HW, prompt)
        with counter.inside(MASK_PRODUCT):
            output.mask_logits()
    parameters: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        part = _part_of(name)
        assert part is not None, f"parameter {name} belongs to no part"
        parameters[part] = parameters.get(part, 0) + parameter.numel()
    return Profile(parameters=parameters, macs=counter.macs)


def preset_profile(
    name: str, size: int | tuple[int, int] | None = None, names: int = 80
) -> Profile:
    """Cost of a preset for one image, on the meta device: no memory, no weights, no arithmetic.

    Args:
        name: a preset.
        size: side of the square image, or height and width, in pixels and multiples of 32; None
            takes the preset's input size.
        names: number of names asked for.

    Raises:
        InputError: no preset has this name, or the size is not a multiple of 32.
    """
    config = get_preset(name)
    height, width = size if isinstance(size, tuple) else (size or config.input_size,) * 2
    with torch.device("meta"):
        network = Mobius(config).eval()
        images_B3HW = torch.empty(1, 3, height, width)
        prompt = TextPrompt(torch.empty(1, names, config.text_dim))
    return count(network, images_B3HW, prompt)


def _part_of(name: str) -> str | None:
    """Part of a module or parameter, by the longest entry that fits; None above all parts."""
    steps = name.split(".")
    for end in range(len(steps), 0, -1):
        part = _PARTS.get(".".join(steps[:end]))
        if part is not None:
            return part
    return None


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up multiply-accumulates by part while it is entered.

    Attributes:
        macs: multiply-accumulates by part.
    """

    def __init__(self) -> None:
        """See the class."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs: dict[str, int] = {}
        self._stack: list[str] = []

    @contextmanager
    def inside(self, part: str) -> Iterator[None]:
        """Everything that runs within belongs to ``part``."""
        self._stack.append(part)
        try:
            yield
        finally:
            self._stack.pop()

    @contextmanager
    def following(self, network: nn.Module) -> Iterator[None]:
        """Within, the part is that of the innermost module that runs and has one."""
        handles: list[RemovableHandle] = []
        for name, module in network.named_modules():
            part = _part_of(name)
            if part is None:
                continue

            def enter(_module: nn.Module, _args: Any, part: str = part) -> None:
                self._stack.append(part)

            def leave(_module: nn.Module, _args: Any, _out: Any) -> None:
                self._stack.pop()

            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = str(func.overloadpacket).removeprefix("aten.").removesuffix("_")
        rule = _COUNTED.get(name)
        if rule is None and name not in _FREE:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is NotImplemented:
                raise NotImplementedError(f"{func}: add it to the counted or the free operators")
            return out
        if rule is _grid_sample and args[0].is_meta:  # its meta kernel takes a quarter of a second
            out = args[0].new_empty(*args[0].shape[:2], *args[1].shape[1:3])
        else:
            out = func(*args, **kwargs)
        if rule is not None:
            assert self._stack, f"{func} ran outside every part"
            part = self._stack[-1]
            self.macs[part] = self.macs.get(part, 0) + rule(args, kwargs, out)
        return out


def _first_times_columns(args: tuple[Any, ...], _kwargs: dict[str, Any], _out: Any) -> int:
    """mm, bmm, mv, dot: every value of the first matrix meets every column of the second."""
    columns = args[1].shape[-1] if args[1].dim() > 1 else 1
    return int(args[0].numel() * columns)


def _added_product(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """addmm, baddbmm, addmv: as the product, the sum comes with it."""
    return _first_times_columns(args[1:], kwargs, out)


def _convolution(args: tuple[Any, ...], _kwargs: dict[str, Any], out: Any) -> int:
    """Kernel size times output values; transposed, kernel size times input values."""
    x, weight, transposed = args[0], args[1], args[6]
    per_value = math.prod(weight.shape[1:])  # input (transposed: output) channels of a group x taps
    return int((x if transposed else out).numel() * per_value)


def _attention(args: tuple[Any, ...], _kwargs: dict[str, Any], _out: Any) -> int:
    """Queries times keys, then weights times values."""
    query, key, value = args[:3]
    return int(query.shape[:-1].numel() * key.shape[-2] * (key.shape[-1] + value.shape[-1]))


def _grid_sample(_args: tuple[Any, ...], _kwargs: dict[str, Any], out: Any) -> int:
    """Four corners for each value read."""
    return 4 * int(out.numel())


_Rule = Callable[[tuple[Any, ...], dict[str, Any], Any], int]
_COUNTED: dict[str, _Rule] = {
    "mm": _first_times_columns,
    "bmm": _first_times_columns,
    "mv": _first_times_columns,
    "dot": _first_times_columns,
    "addmm": _added_product,
    "baddbmm": _added_product,
    "addmv": _added_product,
    "convolution": _convolution,
    "_convolution": _convolution,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "grid_sampler_2d": _grid_sample,
    "cudnn_grid_sampler": _grid_sample,
}

# Not counted: no arithmetic, element-wise, norms, reductions, pooling, resizing. In-place forms
# (a trailing underscore) go under the plain name.
_FREE_NAMES = """
    alias arange as_strided cat clone constant_pad_nd copy detach empty empty_like expand eye fill
    flip full full_like gather index index_select lift_fresh new_empty new_full new_ones new_zeros
    ones ones_like permute repeat _reshape_alias roll scalar_tensor scatter select slice split
    split_with_sizes squeeze stack t _to_copy transpose tril triu unbind unfold unsqueeze
    _unsafe_view view where zero zeros zeros_like _local_scalar_dense

    abs add addcmul bitwise_and bitwise_not bitwise_or ceil clamp clamp_max clamp_min cos div elu
    eq erf exp floor floor_divide ge gelu gt hardsigmoid hardswish hardtanh isfinite isinf isnan le
    leaky_relu log log2 logical_and logical_not logical_or log_sigmoid_forward logit lt masked_fill
    maximum minimum mul ne neg pow reciprocal relu remainder round rsqrt rsub sigmoid sign silu sin
    softplus sqrt sub tanh

    all amax amin any argmax argmin cumsum linalg_vector_norm max mean min native_batch_norm
    _native_batch_norm_legit _native_batch_norm_legit_no_training native_group_norm
    native_layer_norm _safe_softmax _softmax _log_softmax sort std sum topk var var_mean

    _adaptive_avg_pool2d avg_pool2d max_pool2d_with_indices upsample_bilinear2d upsample_bicubic2d
    upsample_nearest2d _upsample_bicubic2d_aa _upsample_bilinear2d_aa
"""
_FREE = frozenset(_FREE_NAMES.split())


def _stated(profile: Profile) -> str:
    """The two fields of a preset that a profile fixes, as they are written there."""
    digits = max(0, 2 - math.floor(math.log10(profile.gmac)))
    gmac = float(f"{profile.gmac:.3g}")
    return f"expected_params={profile.total_parameters:_}, expected_gmac={gmac:.{max(digits, 1)}f}"


def _report(names: list[str]) -> None:
    """Print what each preset should state, whether it does, and its cost by part."""
    for name in names:
        config, profile = get_preset(name), preset_profile(name)
        stated = config.expected_params, config.expected_gmac
        fits = stated == (profile.total_parameters, float(f"{profile.gmac:.3g}"))
        print(f"{name}: {_stated(profile)}{'' if fits else f'  # preset states {stated}'}")
        for part in dict.fromkeys([*profile.macs, *profile.parameters]):
            macs, params = profile.macs.get(part, 0), profile.parameters.get(part, 0)
            print(f"    {part:<28} {macs / 1e9:>10.4f} GMAC {params:>12,} parameters")


if __name__ == "__main__":
    _report(sys.argv[1:] or list(PRESETS))
