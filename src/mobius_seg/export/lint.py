"""Walks an exported program and lists what a runtime would not take.

The program is that of :class:`mobius_seg.export.graph.ExportGraph`, decomposed to core operators,
on the meta device: no weights, no arithmetic.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from mobius_seg.config import ModelConfig
from mobius_seg.cost.dispatch import meta_network
from mobius_seg.export.graph import ExportGraph, make_program
from mobius_seg.export.lint_targets import DTYPES, MAX_RANK, OPERATORS
from mobius_seg.export.request import STATIC_FORMATS
from mobius_seg.operating_points import from_fractions
from mobius_seg.static_points import static_points
from mobius_seg.types import TextPrompt

_NAMES = 3  # of the example prompt
# Arithmetic on sizes, and checks that every exporter drops.
_SIZES = ("getitem", "mul", "add", "sub", "floordiv", "mod", "eq", "ge", "le", "sym_size.int")
_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "sym_min", "sym_max")
_PASSIVE = frozenset({*_SIZES, *_CHECKS})


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a runtime would not take.

    Attributes:
        kind: ``operator``, ``rank``, ``shape`` (it depends on data) or ``dtype``.
        what: the operator, with the offending rank or type.
        count: how often it occurs.
        modules: paths of the modules that it comes from.
    """

    kind: str
    what: str
    count: int
    modules: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LintResult:
    """What a walk found.

    Attributes:
        model: name of the configuration.
        vocabulary: of the graph.
        target: the runtime.
        operators: how often each operator occurs.
        findings: empty where the runtime takes everything.
    """

    model: str
    vocabulary: str
    target: str
    operators: dict[str, int]
    findings: tuple[Finding, ...]


def lint_model(
    config: ModelConfig,
    target: str,
    size: tuple[int, int] | None = None,
    vocabularies: Sequence[str] = ("baked", "dynamic"),
) -> list[LintResult]:
    """Check every graph that a target may get of a model: fixed names, and names as an input.

    The schedule is the package's ``fast`` one, so that pruning is in the graph.

    Args:
        config: of the model.
        target: a key of :data:`mobius_seg.export.lint_targets.OPERATORS`.
        size: height and width in pixels, multiples of 32; None for the model's own, square.
        vocabularies: of these graphs those that the target has: ``baked`` and ``dynamic``.

    Raises:
        InputError: the size cannot be used.
    """
    side = config.input_size // 32 * 32
    height, width = size or (side, side)
    points = static_points(config)
    fast = points.policy("fast") if "fast" in points.points else from_fractions(config, (0.5, 0.2))
    mobile = target in STATIC_FORMATS
    network = meta_network(config)
    with torch.device("meta"):
        names = torch.empty(1, _NAMES, config.text_dim)
    prompts: dict[str, TextPrompt | None] = {"baked": TextPrompt(names)}
    if not config.fuse_subwords:
        prompts["dynamic"] = None
    results = []
    for vocabulary in [name for name in prompts if name in vocabularies]:
        prompt = prompts[vocabulary]
        graph = ExportGraph(network, fast, prompt, padded=mobile)
        count = _NAMES if mobile else None
        program = make_program(graph, height, width, dynamic_batch=not mobile, names=count)
        walked = walk(program.run_decompositions().graph, target)
        results.append(
            LintResult(
                model=config.name,
                vocabulary=vocabulary,
                target=target,
                operators=walked[0],
                findings=walked[1],
            )
        )
    return results


def walk(graph: fx.Graph, target: str) -> tuple[dict[str, int], tuple[Finding, ...]]:
    """Operators of a graph by count, and what of it a target would not take.

    Args:
        graph: of a decomposed program.
        target: the runtime.
    """
    operators: Counter[str] = Counter()
    found: dict[tuple[str, str], list[str]] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        name = operator_name(node)
        module = module_path(node)
        if name not in _PASSIVE:
            operators[name] += 1
            if name not in OPERATORS[target]:
                found.setdefault(("operator", name), []).append(module)
        for kind, what in _value_problems(node, name, target):
            found.setdefault((kind, what), []).append(module)
    findings = tuple(
        Finding(kind=kind, what=what, count=len(places), modules=tuple(sorted({*places})))
        for (kind, what), places in sorted(found.items())
    )
    return dict(sorted(operators.items())), findings


def operator_name(node: fx.Node) -> str:
    """Namespace, name and overload where it is not the default; Python's own have their name."""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = str(target).removeprefix("aten.")
        return name.removesuffix(".default")
    return str(getattr(target, "__name__", target))


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that a node comes from, without the wrapper's own."""
    stack: Any = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return (paths[-1] if paths else "").removeprefix("network.") or "(graph)"


def _value_problems(node: fx.Node, name: str, target: str) -> list[tuple[str, str]]:
    """Rank, shape and type of what a node gives."""
    problems = []
    values = node.meta.get("val")
    for value in values if isinstance(values, list | tuple) else [values]:
        if not isinstance(value, torch.Tensor):
            continue
        if value.dim() > MAX_RANK:
            problems.append(("rank", f"{name} of rank {value.dim()}"))
        if any(_unknown(side) for side in value.shape):
            problems.append(("shape", f"{name} of a shape that depends on data"))
        if value.dtype not in DTYPES[target]:
            problems.append(("dtype", f"{name} of {str(value.dtype).removeprefix('torch.')}"))
    return problems


def _unknown(side: Any) -> bool:
    """Whether a side is a symbol that only the data decides."""
    if not isinstance(side, torch.SymInt):
        return False
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return bool(free_unbacked_symbols(side))
