"""Every operator that torch dispatches, counted by the tensors that it is given.

torch's own counter knows neither ``grid_sample`` nor attention on the CPU; this one does, and knows
which operators are free, so that it meets none in silence.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from mobius_seg.config import ModelConfig
from mobius_seg.cost.operators import FREE
from mobius_seg.cost.parts import Follower, parameter_part
from mobius_seg.cost.record import Profile, Workload, add_up
from mobius_seg.model import Mobius
from mobius_seg.types import TextPrompt


def count(
    network: Mobius,
    images_B3HW: Tensor,
    prompt: TextPrompt,
    kept: Sequence[int] | None = None,
) -> Profile:
    """Run the network once and count, the masks of all queries of the last layer included.

    Args:
        network: on any device, the meta device included; it is counted in the mode it is in.
        images_B3HW: [B, 3, H, W], height and width multiples of 32.
        prompt: what is asked; its columns and tokens cost too.
        kept: queries that each layer runs, one entry a layer that runs; None runs all of both.

    Raises:
        NotImplementedError: an operator ran that is neither counted nor known to be free.
    """
    counter = OperatorCounter()
    layers = None if kept is None else len(kept)
    with counter.following(network), torch.no_grad(), counter:
        output = network(images_B3HW, prompt, keep=kept or None, layers=layers)
        network.mask_product(output.layers[-1].mask_embed_BQM, output.mask_features_BMhw)
    return Profile(parameters=count_parameters(network), macs=counter.macs)


def count_backbone(network: Mobius, images_B3HW: Tensor) -> int:
    """Multiply-accumulates of the backbone alone.

    Args:
        network: on any device.
        images_B3HW: [B, 3, H, W], height and width multiples of 32.
    """
    return count_module(network.backbone, images_B3HW)


def count_module(module: nn.Module, *inputs: Tensor) -> int:
    """Multiply-accumulates of one call of any module.

    Args:
        module: on any device.
        inputs: that it is called with.
    """
    counter = OperatorCounter()
    with torch.no_grad(), counter, counter.inside(""):
        module(*inputs)
    return sum(counter.macs.values())


def count_parameters(network: Mobius) -> dict[str, int]:
    """Number of parameters of a network by part."""
    pairs = []
    for name, parameter in network.named_parameters():
        part = parameter_part(name)
        assert part is not None, f"parameter {name} belongs to no part"
        pairs.append((part, parameter.numel()))
    return add_up(pairs)


def meta_network(config: ModelConfig) -> Mobius:
    """A network without memory or weights, in evaluation mode."""
    with torch.device("meta"), _NoInitialValues():  # type: ignore[no-untyped-call]
        return Mobius(config).eval()


def meta_inputs(config: ModelConfig, work: Workload) -> tuple[Tensor, TextPrompt]:
    """Image and prompt of a workload on the meta device."""
    with torch.device("meta"):
        images_B3HW = torch.empty(1, 3, work.height, work.width)
        pooled_BKD = torch.empty(1, work.names, config.text_dim)
        tokens_BTD = torch.empty(1, work.subwords, config.text_dim) if work.subwords else None
    return images_B3HW, TextPrompt(pooled_BKD, None, tokens_BTD)


def profile_of(config: ModelConfig, work: Workload, kept: Sequence[int] | None = None) -> Profile:
    """Cost of a configuration for one image, run on the meta device: no memory, no arithmetic.

    Args:
        config: of the model.
        work: image and prompt.
        kept: queries that each layer runs, one entry a layer that runs; None runs all of both.

    Raises:
        InputError: height or width is not a multiple of 32.
    """
    return count(meta_network(config), *meta_inputs(config, work), kept)


class _NoInitialValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """On the meta device there is nothing to fill: in-place operators do nothing."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func.overloadpacket.__name__.endswith("_") and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


class OperatorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up multiply-accumulates by part while it is entered.

    Attributes:
        macs: multiply-accumulates by part.
        by_operator: the same by operator.
    """

    def __init__(self) -> None:
        """See the class."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs: dict[str, int] = {}
        self.by_operator: dict[str, int] = {}
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
        follower = Follower()

        def leave(_module: nn.Module, _args: Any, _out: Any) -> None:
            self._stack.pop()

        for name, module in network.named_modules():
            if name.startswith("backbone.") or Follower().part(name) is None:
                continue

            def enter(_module: nn.Module, _args: Any, name: str = name) -> None:
                part = follower.part(name)
                assert part is not None
                self._stack.append(part)

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
        if rule is None and name not in FREE:
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
            macs = rule(args, kwargs, out)
            self.macs[part] = self.macs.get(part, 0) + macs
            self.by_operator[name] = self.by_operator.get(name, 0) + macs
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
