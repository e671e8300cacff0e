"""Three counts of one forward pass, compared; and the cost of a model under a pruning plan."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import torch

from mobius_seg.config import ModelConfig
from mobius_seg.cost.closed import closed_form
from mobius_seg.cost.dispatch import (
    OperatorCounter,
    count,
    count_backbone,
    count_parameters,
    meta_inputs,
    meta_network,
)
from mobius_seg.cost.graph import graph_macs
from mobius_seg.cost.parts import BACKBONE, RECOGNITION
from mobius_seg.cost.record import Profile, Workload, workload
from mobius_seg.imagenet import SIDE
from mobius_seg.recognition import CROPS, meta_recogniser

TOLERANCE = 1e-3


def certified_profile(
    config: ModelConfig,
    work: Workload,
    kept: Sequence[int] | None = None,
    *,
    with_graph: bool = False,
) -> Profile:
    """Count by dispatch and by closed form, and by the exported graph if wanted, and compare.

    Args:
        config: of the model.
        work: image and prompt.
        kept: queries that each layer runs, one entry a layer that runs; None runs all of both.
        with_graph: export the program too (of the whole decoder; with ``kept`` it is not compared).

    Returns:
        What the dispatch counter says.

    Raises:
        InputError: the size is not a multiple of 32, or the plan cannot run.
        AssertionError: two counts of a part differ by more than 0.1 %.
    """
    network = meta_network(config)
    closed = closed_form(config, network.backbone.channels, work, kept)
    profile = count(network, *meta_inputs(config, work), kept)
    compare(profile.macs, closed, "closed form", without=(BACKBONE,))
    if with_graph and kept is None:
        compare(profile.macs, graph_macs(config, work), "exported graph")
    return profile


def compare(
    dispatched: Mapping[str, int],
    other: Mapping[str, int],
    name: str,
    without: Sequence[str] = (),
) -> None:
    """Check that two counts agree in every part.

    Args:
        dispatched: what the dispatch counter says.
        other: another count by part.
        name: what the other is called.
        without: parts that the other leaves out.

    Raises:
        AssertionError: a part differs by more than 0.1 %, or only one of them has it.
    """
    for part in dict.fromkeys([*dispatched, *other]):
        if part in without:
            continue
        ours, theirs = dispatched.get(part, 0), other.get(part, 0)
        if abs(ours - theirs) > TOLERANCE * max(ours, theirs):
            raise AssertionError(f"{part}: dispatch counts {ours:,} MAC, {name} {theirs:,}")


@lru_cache(maxsize=16)
def certified_recognition(text_dim: int, names: int) -> tuple[int, int]:
    """What recognising adds to a picture at most: counted by dispatch, compared with receipts'.

    Args:
        text_dim: D of the model.
        names: columns K of the prompt.

    Returns:
        Multiply-accumulates of as many crops as are looked at, and the classifier's parameters.

    Raises:
        AssertionError: the two differ by more than 0.1 %.
    """
    recogniser = meta_recogniser(text_dim)
    with torch.device("meta"):
        crops_N3SS = torch.empty(CROPS, 3, SIDE, SIDE)
        names_KD = torch.empty(names, text_dim)
    counter = OperatorCounter()
    with torch.no_grad(), counter, counter.inside(RECOGNITION):
        recogniser.compare(recogniser.classify(crops_N3SS), names_KD)
    stated = {RECOGNITION: CROPS * recogniser.crop_macs(names)}
    compare(counter.macs, stated, "receipt")
    return counter.macs[RECOGNITION], recogniser.parameters


def profile_at(
    config: ModelConfig,
    size: tuple[int, int],
    names: int,
    text_tokens: int | None,
    kept: Sequence[int],
    *,
    selected: int | None = None,
    masks: int | None = None,
) -> Profile:
    """Cost of one image when each layer runs so many queries, in closed form.

    Only the backbone is really counted, once for each configuration and size of a process.

    Args:
        config: of the model.
        size: height and width in pixels, multiples of 32.
        names: columns K of the prompt.
        text_tokens: text tokens T in the fusion, for models that fuse sub-words; None for columns
            alone.
        kept: queries that each layer runs; its length is the number of layers that run.
        selected: queries that the selection picks; None picks what the first layer runs.
        masks: queries whose masks are computed at the end; None takes those of the last layer.

    Raises:
        InputError: the size is not a multiple of 32, or the plan cannot run.
    """
    work = workload(config, size, names, text_tokens)
    return _at(config, work, kept, selected, masks)


def executed_profile(
    config: ModelConfig, work: Workload, queries: Sequence[int], masks: int | None = None
) -> Profile:
    """Cost of what was executed for one image, in closed form.

    Args:
        config: of the model. The masks of its selection (``selection_masks``) are not executed
            under a policy, and not counted.
        work: the padded image and the prompt.
        queries: how many ran each stage, the query selection first.
        masks: how many masks were computed; None takes one for each query of the last stage.

    Raises:
        InputError: the size is not a multiple of 32, or the plan cannot run.
    """
    left = queries[-1] if masks is None else masks
    config = replace(config, selection_masks=False)
    return _at(config, work, queries[1:], queries[0], left)


def _at(
    config: ModelConfig,
    work: Workload,
    kept: Sequence[int],
    selected: int | None,
    masks: int | None,
) -> Profile:
    channels, backbone, parameters = _measured(config, (work.height, work.width))
    closed = closed_form(config, channels, work, kept, selected=selected, masks=masks)
    return Profile(parameters=parameters, macs={BACKBONE: backbone} | closed)


@lru_cache(maxsize=64)
def _measured(
    config: ModelConfig, size: tuple[int, int]
) -> tuple[tuple[int, ...], int, dict[str, int]]:
    """Channels and cost of the backbone, and parameters by part."""
    network = meta_network(config)
    images_B3HW, _ = meta_inputs(config, workload(config, size, 1))
    macs = count_backbone(network, images_B3HW)
    return network.backbone.channels, macs, count_parameters(network)
