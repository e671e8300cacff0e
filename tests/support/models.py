"""A tiny network whose masks and scores are worth looking at, and an encoder without weights."""

import dataclasses
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mobius_seg.checkpoint import load_model
from mobius_seg.model import Mobius
from mobius_seg.text_features import TextFeatures
from mobius_seg.types import TextPrompt

DIM = 384


class HashEncoder:
    """Any string to vectors drawn from its SHA-256; counts what it encodes."""

    identity = "sha256"
    dim = DIM

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        self.encoded += texts
        tokens = [self._vectors(text, min(1 + len(text) // 4, 50)) for text in texts]
        pooled = [functional.normalize(table.mean(0), dim=0) for table in tokens]
        return TextFeatures.stack(pooled, tokens, DIM)

    def _vectors(self, text: str, count: int) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        generator = torch.Generator().manual_seed(seed)
        return functional.normalize(torch.randn(count, DIM, generator=generator), dim=1)


def lively_network() -> Mobius:
    """mobius-test with large masks, positive on about half of noise, and scores around 0.5."""
    network = load_model("mobius-test", random_weights=True, seed=2)
    network.config = dataclasses.replace(network.config, text_encoder=HashEncoder.identity)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        heads, features = network.decoder.heads, network.pixel_decoder.mask_features
        for weight in (heads.mask[-1].weight, features.weight):
            weight.copy_(torch.randn(weight.shape, generator=generator))
        heads.classifier.bias.zero_()
        heads.classifier.object_bias.fill_(2.0)
        features.bias.zero_()
        noise = torch.rand(1, 3, 64, 64, generator=generator)
        output = network(noise, TextPrompt.everything(DIM))
        features.bias.copy_(-output.mask_features_BMhw.mean((0, 2, 3)))
    return network
