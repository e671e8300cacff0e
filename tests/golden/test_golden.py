"""mobius-test with weights filled by index: its outputs and losses stay what they were.

So do the outputs of its variant in the form of the accelerator sizes: deformable attention, more
levels. A change here is a change of every trained model. ``python tests/golden/test_golden.py``
writes the file anew; the reason belongs into the changelog.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mobius_seg.calibration import confidence
from mobius_seg.config import ModelConfig
from mobius_seg.data.sample import Sample, Vocabulary, collate
from mobius_seg.loss_config import FIRST_LOSS
from mobius_seg.losses import Criterion
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.text_features import TextFeatures
from mobius_seg.types import TextPrompt

FILE = Path(__file__).parent / "mobius_test.json"
HEIGHT, WIDTH, DIM = 64, 96, 384
PHONE = get_preset("mobius-test")
ACCELERATOR = replace(
    PHONE,
    name="mobius-test-deformable",
    bottleneck_stride=16,
    mixing="deformable",
    cross_attention="deformable",
    token_strides=(8, 16, 32),
    memory_strides=(16, 32, 64),
)


def wave(*shape: int, seed: int = 0, step: float = 0.7) -> Tensor:
    """Deterministic values in -1..1, computed in float64 from the index alone."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(step * index + 1.3 * seed + 0.01 * index**1.5).float().reshape(shape)


def filled(config: ModelConfig = PHONE) -> Mobius:
    """Every weight from its place; scales as large as a usual initialisation."""
    network = Mobius(config).eval()
    with torch.no_grad():
        for seed, (name, value) in enumerate(sorted(network.state_dict().items())):
            if not value.is_floating_point():
                continue
            new = wave(*value.shape, seed=seed)
            if name.endswith("log_scale"):
                new = torch.full_like(value, 2.5)
            elif name.endswith("name_gain"):
                new = torch.full_like(value, 1.0)
            elif value.ndim == 0:  # biases of the class heads: scores around one half
                new = torch.full_like(value, -4.0)
            elif name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
                new = 1 + 0.2 * new
            elif value.ndim > 1:
                new = new * (3 / math.prod(value.shape[1:])) ** 0.5
            else:
                new = 0.2 * new
            value.copy_(new)
    return network


def picture(seed: int = 0) -> Tensor:
    """[3, H, W] in 0..1: waves and two bright rectangles."""
    image = 0.3 + 0.2 * wave(3, HEIGHT, WIDTH, seed=seed, step=0.11)
    image[:, 8:40, 10:50] += 0.3
    image[0, 20:60, 55:90] += 0.4
    return image.clamp(0, 1)


def texts(*shape: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(wave(*shape, DIM, seed=seed, step=1.9), dim=-1)


class Waves:
    """An encoder for the one expression."""

    dim, identity = DIM, "waves"

    def encode(self, strings: list[str]) -> TextFeatures:
        return TextFeatures.stack(list(texts(len(strings), seed=7)), [texts(3, seed=8)], DIM)


def digest(value: Tensor) -> dict[str, float]:
    """Three numbers that no rearrangement of the values leaves as they are."""
    flat = value.detach().double().flatten()
    weights = torch.cos(0.37 * torch.arange(len(flat), dtype=torch.float64))
    return {
        "mean": float(flat.mean()),
        "size": float(flat.abs().mean()),
        "order": float((flat * weights).mean()),
    }


CASES = {
    "names": (PHONE, TextPrompt(texts(1, 4))),
    "expression": (PHONE, TextPrompt(texts(1, 1, seed=5), None, texts(1, 3, seed=6))),
    "everything": (PHONE, TextPrompt.everything(DIM)),
    "deformable": (ACCELERATOR, TextPrompt(texts(1, 4))),
}


def outputs() -> dict[str, dict[str, float]]:
    found = {}
    for title, (config, prompt) in CASES.items():
        with torch.no_grad():
            out = filled(config)(picture()[None], prompt)
        for stage, layer in enumerate(out.layers):
            for key, value in vars(layer).items():
                if value is not None and value.numel():
                    found[f"{title}/{stage}/{key}"] = digest(value)
        found[f"{title}/mask_features"] = digest(out.mask_features_BMhw)
        found[f"{title}/mask_logits"] = digest(out.mask_logits())
    return found


def losses() -> dict[str, float]:
    """One training forward pass over a names, an expression and a class-agnostic sample."""
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, 8:40, 10:50] = masks[1, 20:60, 55:90] = True
    known = [
        {"names": ("a", "c")},
        {"names": None, "expression": "one", "referred": (1,)},
        {"names": None},
    ]
    samples = [
        Sample(
            image=(255 * picture(seed)).byte(),
            boxes_xyxy=torch.tensor([[10.0, 8, 50, 40], [55, 20, 90, 60]]),
            masks=masks,
            **what,  # type: ignore[arg-type]
        )
        for seed, what in enumerate(known)
    ]
    vocabulary = Vocabulary(["a", "b", "c"], texts(3, seed=9), Waves())  # type: ignore[arg-type]
    batch = collate(samples, vocabulary, np.random.default_rng(0), (3, 3))
    network = filled().train()
    out = network(batch.images_B3HW.float() / 255, batch.prompt)
    generator = torch.Generator().manual_seed(0)
    parts = Criterion(FIRST_LOSS)(out, batch.targets, batch.prompt, generator)
    return {key: float(value.detach()) for key, value in sorted(parts.items())}


@pytest.mark.parametrize("case", CASES)
def test_scores_leave_no_tie(case: str) -> None:
    """The goldens hold on any machine only if rounding cannot change which tokens are chosen."""
    config, prompt = CASES[case]
    one_more = replace(config, queries=config.queries + 1)
    with torch.no_grad():
        out = filled(one_more)(picture()[None], prompt).layers[0]
    chosen = confidence(out.logits_BQK, out.object_logits_BQ, None, config.objectness_weight)
    assert chosen.shape == (1, config.queries + 1)
    assert float(chosen[0].sort(descending=True).values.diff().abs().min()) > 2e-5


def test_outputs() -> None:
    wanted, found = json.loads(FILE.read_text())["outputs"], outputs()
    assert set(found) == set(wanted)
    for key, numbers in wanted.items():
        assert found[key] == pytest.approx(numbers, rel=2e-5, abs=2e-6), key


def test_losses() -> None:
    wanted = json.loads(FILE.read_text())["losses"]
    assert losses() == pytest.approx(wanted, rel=1e-4)


if __name__ == "__main__":
    FILE.write_text(json.dumps({"outputs": outputs(), "losses": losses()}, indent=1) + "\n")
