"""``model.onnx``: the graph through torch's dynamo exporter, one file, checked."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mobius_seg.export.graph import ExportGraph, example_inputs, program_shapes
from mobius_seg.export.half import to_half
from mobius_seg.export.spec import IMAGE, OUTPUTS, TEXT

OPSET = 18
"""Lowest that has what the graphs use; what browsers and phones run as well."""


def write_onnx(
    graph: ExportGraph,
    file: Path,
    size: tuple[int, int],
    *,
    dynamic_size: bool = False,
    half: bool = False,
    change: Callable[[Any], Any] | None = None,
    facts: dict[str, Any] | None = None,
) -> None:
    """Write a graph as one ONNX file and check it.

    Args:
        graph: what is exported.
        file: to write.
        size: height and width in pixels; an example where the size is dynamic.
        dynamic_size: any multiples of 32.
        half: weights and most of the arithmetic in float16, see :mod:`mobius_seg.export.half`;
            inputs and outputs stay float32.
        change: what else is done to the model before it is written; the modules that nodes come
            from are still in their metadata.
        facts: kept as metadata properties of the file, as JSON where they are no texts.
    """
    names = [IMAGE, TEXT] if graph.dynamic else [IMAGE]
    inputs = example_inputs(graph, *size)
    shapes = program_shapes(graph, dynamic_size=dynamic_size)
    model = onnx_model(graph, inputs, names, list(OUTPUTS), shapes)
    if half:
        model = to_half(model)
    if change is not None:
        model = change(model)
    save_onnx(model, file, facts or {})


def onnx_model(
    module: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    shapes: dict[str, Any],
) -> Any:
    """A module as an ``onnx.ModelProto``, constants folded.

    Args:
        module: in evaluation mode.
        inputs: examples.
        input_names: in their order.
        output_names: in the order of what the module returns.
        shapes: dimensions that vary, as ``torch.export`` takes them.
    """
    with torch.no_grad(), quiet():
        program: Any = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=shapes,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    return program.model_proto


def save_onnx(model: Any, file: Path, facts: dict[str, Any]) -> None:
    """Check a model and write it with metadata properties.

    Raises:
        onnx.checker.ValidationError: the model is not valid (a bug of ours).
    """
    import onnx

    del model.metadata_props[:]
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    onnx.helper.set_model_props(model, texts)
    model.producer_name = "mobius-seg"
    for node in model.graph.node:  # traces of the exporter: half of a small file
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(file))


@contextmanager
def quiet(*more: str) -> Iterator[None]:
    """Without the exporter's own messages.

    Args:
        more: names of further loggers; "" is the root.
    """
    silenced = ("torch.onnx", "onnxscript", "onnx_ir", *more)
    loggers = [logging.getLogger(name) for name in silenced]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
