"""``encode.onnx``, ``layer_1.onnx`` ..., ``masks.onnx``: the files of a chain."""

from pathlib import Path
from typing import Any

from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.export.chain import chain_facts
from mobius_seg.export.graph import ExportGraph
from mobius_seg.export.onnx_file import onnx_model, save_onnx
from mobius_seg.export.schedule import Schedule
from mobius_seg.export.segments import check_segments, segment_parts
from mobius_seg.operating_points import OperatingPoints
from mobius_seg.posthoc import ScoreMaps
from mobius_seg.pruning import PruningPolicy


def chain_schedule(config: ModelConfig, points: OperatingPoints, name: str) -> Schedule:
    """The most that a chain runs at an operating point, as a static schedule.

    Args:
        config: of the network.
        points: of the model.
        name: of the point.

    Raises:
        InputError: the model has no such point, the point runs no layer, or the network cannot be
            cut into segments.
    """
    check_segments(config)
    policy = points.policy(name)
    if policy.depth(config.decoder_layers) < 1:
        raise InputError(f"operating point {name!r} of {config.name} runs no layer to chain")
    form = "looks at each picture" if policy.form == "adaptive" else "is the same for all"
    return Schedule(
        point=name,
        policy=PruningPolicy.static(policy.keep, policy.layers),
        origin=f"at most; the chain's policy {form}",
    )


def write_chain(
    graph: ExportGraph,
    folder: Path,
    size: tuple[int, int],
    policy: PruningPolicy,
    maps: ScoreMaps | None,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write every segment of a network.

    Args:
        graph: of the network and its vocabulary.
        folder: to write into.
        size: height and width in pixels.
        policy: of the operating point.
        maps: of each stage's confidence.
        facts: kept in every file.

    Returns:
        What ``model.json`` says about the chain.
    """
    config = graph.network.config
    parts = segment_parts(graph, size, policy.depth(config.decoder_layers))
    for name, (module, inputs, input_names, output_names, shapes) in parts.items():
        model = onnx_model(module, inputs, input_names, output_names, shapes)
        save_onnx(model, folder / f"{name}.onnx", {**facts, "segment": name})
    return chain_facts(config, [f"{name}.onnx" for name in parts], policy, maps)
