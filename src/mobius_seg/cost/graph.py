"""A walk over the exported program: the shapes in the graph, before operators are decomposed.

The third count. It sees ``linear``, ``conv2d`` and the attention of backbones as whole operators
with the shapes of their results, where the dispatch counter sees the products that torch makes of
them; the network's own attention is written out in a graph, where that counter sees it whole.
"""

import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from mobius_seg.config import ModelConfig
from mobius_seg.cost.dispatch import meta_inputs, meta_network
from mobius_seg.cost.operators import FREE
from mobius_seg.cost.parts import Follower
from mobius_seg.cost.record import Workload
from mobius_seg.model import Mobius
from mobius_seg.types import TextPrompt

Shape = tuple[int, ...]


class WholePass(nn.Module):
    """Network and final masks as one module of tensors, as an exporter wants it.

    Args:
        network: in evaluation mode.
    """

    def __init__(self, network: Mobius) -> None:
        """See the class."""
        super().__init__()
        self.network = network

    def forward(
        self, images_B3HW: Tensor, pooled_BKD: Tensor, tokens_BTD: Tensor | None
    ) -> list[Tensor]:
        """Everything that the network says, so that no operator is cut away as unused."""
        output = self.network(images_B3HW, TextPrompt(pooled_BKD, None, tokens_BTD))
        last = output.layers[-1].mask_embed_BQM
        masks = self.network.mask_product(last, output.mask_features_BMhw)
        found = [value for layer in output.layers for value in vars(layer).values()]
        first = output.selection_masks_BQhw
        return [masks, output.text_BKC, *found, *([] if first is None else [first])]


def graph_macs(config: ModelConfig, work: Workload) -> dict[str, int]:
    """Multiply-accumulates by part, from the graph that ``torch.export`` makes.

    Args:
        config: of the model.
        work: image and prompt.

    Raises:
        NotImplementedError: the graph holds an operator that is neither counted nor free.
    """
    images_B3HW, prompt = meta_inputs(config, work)
    arguments = (images_B3HW, prompt.pooled_BKD, prompt.tokens_BTD)
    with torch.no_grad():
        program = torch.export.export(WholePass(meta_network(config)).eval(), arguments)
    return walk(program.graph)


def walk(graph: fx.Graph) -> dict[str, int]:
    """Multiply-accumulates by part of an exported graph of :class:`WholePass`.

    Raises:
        NotImplementedError: the graph holds an operator that is neither counted nor free.
    """
    follower, sums = Follower(), dict[str, int]()
    entered = ""
    for node in graph.nodes:
        if node.op != "call_function" or node.target is operator.getitem:
            continue
        module = _module(node)
        if module != entered:
            entered, part = module, follower.part(module)
        name = _name(node.target)
        rule = _RULES.get(name)
        if rule is None:
            if name not in FREE and name not in _FREE_WHOLE:
                raise NotImplementedError(f"{node.target}: add it to the counted or the free ones")
            continue
        assert part is not None, f"{node} is outside every part"
        sums[part] = sums.get(part, 0) + rule(node)
    return sums


def _module(node: fx.Node) -> str:
    """Name of the innermost module that a node comes from, as in ``named_modules``."""
    stack = node.meta.get("nn_module_stack") or {}
    name = str([*stack.values()][-1][0]) if stack else ""
    return re.sub(r"@\d+", "", name).removeprefix("network").removeprefix(".")


def _name(target: Any) -> str:
    """ATen name of an operator, without its overload and the mark of in-place forms."""
    packet = getattr(target, "overloadpacket", target)
    return str(packet).removeprefix("aten.").removesuffix("_")


def _shape(node: Any) -> Shape:
    value = node.meta["val"]
    return tuple(int(side) for side in value.shape)


def _linear(node: fx.Node) -> int:
    """Every result is one product over the inputs."""
    return math.prod(_shape(node)) * _shape(node.args[0])[-1]


def _added(node: fx.Node) -> int:
    """As in addmm and baddbmm, where the second argument is the first matrix."""
    return math.prod(_shape(node)) * _shape(node.args[1])[-1]


def _einsum(node: fx.Node) -> int:
    """One product for each combination of all letters."""
    equation, tensors = str(node.args[0]), node.args[1]
    assert isinstance(tensors, list | tuple)
    sides: dict[str, int] = {}
    for letters, tensor in zip(equation.split("->")[0].split(","), tensors, strict=True):
        sides |= dict(zip(letters.strip(), _shape(tensor), strict=True))
    return math.prod(sides.values())


def _convolution(node: fx.Node) -> int:
    """Taps times channels of a group for every result."""
    return math.prod(_shape(node)) * math.prod(_shape(node.args[1])[1:])


def _transposed(node: fx.Node) -> int:
    """Taps times channels of a group for every input."""
    return math.prod(_shape(node.args[0])) * math.prod(_shape(node.args[1])[1:])


def _attention(node: fx.Node) -> int:
    """Scores of every query and key, and a reading of every value."""
    query, key, value = (_shape(argument) for argument in node.args[:3])
    pairs = math.prod(query[:-1]) * key[-2]
    return pairs * (query[-1] + value[-1])


def _grid_sample(node: fx.Node) -> int:
    """Four corners for each result."""
    return 4 * math.prod(_shape(node))


_RULES: dict[str, Callable[[fx.Node], int]] = {
    "linear": _linear,
    "matmul": _linear,
    "mm": _linear,
    "bmm": _linear,
    "mv": _linear,
    "addmm": _added,
    "baddbmm": _added,
    "einsum": _einsum,
    "conv2d": _convolution,
    "conv_transpose2d": _transposed,
    "scaled_dot_product_attention": _attention,
    "grid_sampler": _grid_sample,
    "grid_sampler_2d": _grid_sample,
}
# Free operators that only a graph before decomposition holds.
_WHOLE_NAMES = """
    adaptive_avg_pool2d batch_norm broadcast_tensors chunk contiguous dropout expand_as
    flatten group_norm layer_norm max_pool2d meshgrid narrow pad relu6 reshape
    softmax to type_as unflatten upsample_bilinear2d view_as _assert_tensor_metadata linspace
    log_sigmoid log_softmax repeat_interleave
"""
_FREE_WHOLE = frozenset(_WHOLE_NAMES.split())
