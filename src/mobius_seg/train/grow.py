"""A larger model of the family that computes what a smaller one does: training goes on from there.

What is wider holds copies of channels, and what reads a channel is shared among its copies; what is
deeper adds nothing yet (function-preserving transformations, Net2Net, Chen et al. 2016). The shares
are drawn for each weight on its own: with one share a copy, its gradient would be parallel to its
original's, and an optimiser that scales gradients would keep the two alike for ever.
"""

import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobius_seg.checkpoint import (
    TRAINING_FILE,
    WEIGHTS_FILE,
    find_folder,
    load_model,
    save_model,
)
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.train.grow_backbone import Copies, grow_backbone
from mobius_seg.train.record import read_record

_PROBE = 64  # side of the picture that both networks are compared on
_TOLERANCE = 1e-3  # of the largest value; rounding makes 1e-6 of it
_LEVEL_OF = {"lateral4": 0, "fine": 2, "coarse": 3, "8": 1, "16": 2, "32": 3, "64": 3}
_READERS = ("pixel_decoder.lateral", "pixel_decoder.pyramid.fine", "name_map.")


def grow(source: Mobius, config: ModelConfig, seed: int = 0) -> Mobius:
    """The network of ``config``, which computes what ``source`` computes.

    The backbone may be wider and deeper (EfficientNets of one family), feed-forward parts may be
    wider, and there may be more mixing layers and queries; the rest has to be the same.

    Args:
        source: a trained network; left as it is.
        config: of the larger one.
        seed: of the copies, the shares, and the first values of what is new.

    Returns:
        A new network on the CPU in float32 and evaluation mode.

    Raises:
        InputError: one of the two is not a larger form of the other; says where they differ.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Mobius(config)
        copies = grow_backbone(source.backbone, network.backbone)
        own, found = network.state_dict(), source.state_dict()
        for key in [key for key in own if not key.startswith("backbone.")]:
            if key in found:
                own[key].copy_(_fitted(key, found[key], own[key], copies))
        _silence(network, source)
    lost = [key for key in found if key not in own and not key.startswith("backbone.")]
    if lost:
        raise InputError(f"{config.name} has no place for {lost[0]} of {source.config.name}")
    if difference(source, network.eval()) > _TOLERANCE:
        raise InputError(
            f"{config.backbone} has layers that {source.config.backbone} has not: the larger model"
            " would compute something else"
        )
    return network


def _fitted(key: str, value: Tensor, fresh: Tensor, copies: list[Copies]) -> Tensor:
    """A tensor of the smaller network in the shape of the larger one."""
    if key.startswith(_READERS) and value.ndim == 4:
        parts = key.split(".")
        level = next(_LEVEL_OF[part] for part in reversed(parts) if part in _LEVEL_OF)
        value = copies[level].read(value)
    if value.shape == fresh.shape:
        return value
    grown = fresh.clone()
    rows, hidden = value.shape[0], value.shape[-1]
    if ".feed_forward.mlp.0." in key and fresh.shape[1:] == value.shape[1:] and len(fresh) > rows:
        grown[:rows] = value
    elif ".feed_forward.mlp.2.weight" in key and len(fresh) == rows and fresh.shape[1] > hidden:
        grown[:, :hidden], grown[:, hidden:] = value, 0.0
    else:
        raise InputError(
            f"{key} is {list(value.shape)} in the smaller model and {list(fresh.shape)} in the"
            " larger one; allowed: other backbones of a family, wider feed-forward parts, more"
            " mixing layers, more queries"
        )
    return grown


def _silence(network: Mobius, source: Mobius) -> None:
    """New mixing layers add nothing yet; other new parts are refused."""
    first = source.config.mixing_layers
    prefixes = tuple(f"pixel_decoder.mix.{i}." for i in range(first, network.config.mixing_layers))
    there = source.state_dict()
    for key, value in network.state_dict().items():
        if key in there or key.startswith("backbone."):
            continue
        if not prefixes or not key.startswith(prefixes) or network.config.mixing != "plain":
            raise InputError(
                f"{source.config.name} has no {key}, and no part that computes nothing can stand"
                " for it; allowed: more mixing layers of plain attention"
            )
        if ".out." in key or ".mlp.2." in key:
            value.zero_()


@torch.no_grad()
def difference(one: Mobius, other: Mobius) -> float:
    """How far apart two networks' mask features and name vectors of a picture of noise lie.

    Returns:
        The largest difference over the largest value.
    """
    picture = torch.rand(1, 3, _PROBE, _PROBE, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 4, one.config.width, generator=torch.Generator().manual_seed(1))
    apart = []
    for network in (one, other):
        encoded = network.eval().encode_tokens(picture, text, None, 3, None)
        names = [] if encoded.names is None else [encoded.names.names_BChw]
        apart.append([encoded.mask_features_BMhw, encoded.text_BKC, *names])
    return max(
        float((a - b).abs().max() / a.abs().max().clamp(min=1e-12))
        for a, b in zip(*apart, strict=True)
    )


def write_grown(weights: Path, preset: str, out: Path, seed: int = 0) -> tuple[Path, float]:
    """Grow stored weights and write the larger model with the record of its making.

    Args:
        weights: a shipped model or a model's folder.
        preset: the larger model.
        out: folder to make.
        seed: of :func:`grow`.

    Returns:
        ``out``, and the :func:`difference` of the two networks.

    Raises:
        InputError: there are no such weights, they do not grow into the preset, or ``out`` holds a
            model already.
    """
    if (out / WEIGHTS_FILE).exists():
        raise InputError(f"{out}: holds a model already; choose another --out")
    source = load_model(weights)
    if source.config.name == preset:
        raise InputError(f"{weights} is {preset} already; allowed: a larger model as --preset")
    try:
        network = grow(source, get_preset(preset), seed)
    except InputError as error:
        raise InputError(f"{weights} does not grow into {preset}: {error}") from None
    previous = read_record(find_folder(weights), TRAINING_FILE) or {}
    record: dict[str, Any] = {
        "steps": 0,
        "images": 0,
        "hours": 0.0,
        "start": source.config.name,
        "grown": f"{source.config.name} ({source.config.backbone}) to {preset}",
        "seed": seed,
        "assets": previous.get("assets", []),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "previous": previous,
    }
    save_model(network, out, training=record, float16=False)
    return out, difference(source, network)
