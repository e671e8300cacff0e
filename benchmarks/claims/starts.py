"""Where a training begins: a variant of a model, some of it with the weights of another.

What is not taken over is drawn from the run's seed.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mobius_seg.checkpoint import load_model, save_model
from mobius_seg.config import ModelConfig
from mobius_seg.model import Mobius
from mobius_seg.types import TextPrompt

BACKBONE = ("backbone.", "name_map.", "text_projection.", "text_mean")
"""What ``mobius-seg pretrain`` trains: the backbone, the name map and the text's projection."""
ALL = ("",)
_FRESH = ("decoder.heads.uncertainty.",)
"""Parts that a variant may have and the source not."""


def write_start(
    config: ModelConfig,
    source: Path,
    parts: Sequence[str],
    names_KD: Tensor,
    seed: int,
    folder: Path,
) -> None:
    """Write the weights that a run begins with.

    Decoder layers beyond those of the source begin as copies of its last one. In a narrower model,
    name map and text projection keep the main directions of the names.

    Args:
        config: of the variant.
        source: folder of weights to take from.
        parts: beginnings of the names of tensors that are taken over.
        names_KD: text vectors of the training's names.
        seed: of what is drawn.
        folder: of the model to write.

    Raises:
        ValueError: a tensor to take over is not in the source, or of another shape.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Mobius(config)
    network.fit_text(names_KD)
    taken = take(network, load_model(source), parts, names_KD)
    save_model(network, folder, training={"taken_over": len(taken), "seed": seed}, float16=False)


@torch.no_grad()
def take(network: Mobius, source: Mobius, parts: Sequence[str], names_KD: Tensor) -> list[str]:
    """Copy tensors from one network to another; returns their names.

    Args:
        network: filled in place.
        source: where the tensors come from.
        parts: beginnings of their names.
        names_KD: text vectors that narrower models keep the directions of.

    Raises:
        ValueError: a tensor is not in the source, or of another shape.
    """
    given = source.state_dict()
    if network.config.width < source.config.width:
        given |= _narrowed(source, network.config.width, names_KD)
    last = source.config.decoder_layers - 1
    taken = []
    for key, value in network.state_dict().items():
        if not key.startswith(tuple(parts)):
            continue
        other = re.sub(
            r"^(decoder\.(?:layers|memories))\.(\d+)\.",
            lambda match: f"{match[1]}.{min(int(match[2]), last)}.",
            key,
        )
        if other not in given and key.startswith(_FRESH):
            continue
        if other not in given or given[other].shape != value.shape:
            raise ValueError(f"{key}: the start's weights have no such tensor of this shape")
        value.copy_(given[other])
        taken.append(key)
    return taken


def _narrowed(source: Mobius, width: int, names_KD: Tensor) -> dict[str, Tensor]:
    """Name map and text projection turned to the main directions of the names, the rest cut off.

    Products of name vectors and columns stay what they were, but for what the names do not span.
    """
    names_KC = source.project_names(names_KD)
    directions_WC = torch.linalg.svd(names_KC.double(), full_matrices=True)[2][:width].float()
    found = {}
    for key, value in source.state_dict().items():
        if key.startswith(("name_map.", "text_projection.")):
            found[key] = torch.einsum("wc,c...->w...", directions_WC, value)
    return found


@torch.no_grad()
def write_smoke_start(folder: Path) -> None:
    """Write mobius-test with masks that are not empty and scores around a half, without training.

    Args:
        folder: of the model.
    """
    network = load_model("mobius-test", random_weights=True, seed=2)
    generator = torch.Generator().manual_seed(0)
    heads, features = network.decoder.heads, network.pixel_decoder.mask_features
    for weight in (heads.mask[-1].weight, features.weight):
        weight.copy_(torch.randn(weight.shape, generator=generator))
    heads.classifier.bias.zero_()
    heads.classifier.object_bias.fill_(2.0)
    features.bias.zero_()
    noise_B3HW = torch.rand(1, 3, 64, 64, generator=generator)
    output = network(noise_B3HW, TextPrompt.everything(network.config.text_dim))
    features.bias.copy_(-output.mask_features_BMhw.mean((0, 2, 3)))
    save_model(network, folder, training={"steps": 0}, float16=False)
