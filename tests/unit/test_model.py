"""The whole network on what only it decides: prompts, precision, training's random parts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.data.sample import Sample, Vocabulary, collate
from mobius_seg.errors import InputError
from mobius_seg.losses import Criterion
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.types import TextPrompt


@pytest.fixture(scope="module")
def network() -> Mobius:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Mobius(get_preset("mobius-test")).eval()


def vectors(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(*shape, 384, generator=generator), dim=-1)


IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_prompt_of_one_is_shared_by_the_batch(network: Mobius) -> None:
    shared = network(IMAGES, TextPrompt(vectors(1, 3)))
    repeated = network(IMAGES, TextPrompt(vectors(1, 3).expand(2, -1, -1)))
    for a, b in zip(shared.layers, repeated.layers, strict=True):
        torch.testing.assert_close(a.logits_BQK, b.logits_BQK)
    assert shared.text_BKC.shape == (2, 3, network.config.width)
    torch.testing.assert_close(shared.text_BKC.norm(dim=-1), torch.ones(2, 3))


@torch.no_grad()
def test_images_are_normalised_inside(network: Mobius) -> None:
    """A picture of the mean colour is zero to the backbone."""
    seen: list[Tensor] = []
    hook = network.backbone.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    mean = torch.tensor(network.config.image_mean).view(1, 3, 1, 1)
    network(mean.expand(1, 3, 32, 32), TextPrompt.everything(384))
    hook.remove()
    torch.testing.assert_close(seen[0], torch.zeros(1, 3, 32, 32))
    assert not [key for key in network.state_dict() if key.startswith("image_")]


@torch.no_grad()
def test_masks_are_products_with_the_mask_features(network: Mobius) -> None:
    out = network(IMAGES, TextPrompt.everything(384))
    for layer in (0, -1):
        embed = out.layers[layer].mask_embed_BQM
        wanted = (embed[:, :, :, None, None] * out.mask_features_BMhw[:, None]).sum(2)
        torch.testing.assert_close(out.mask_logits(layer), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_sub_words_of_an_expression_matter(network: Mobius) -> None:
    plain = network(IMAGES, TextPrompt(vectors(1, 1)))
    first, second = (
        network(IMAGES, TextPrompt(vectors(1, 1), None, vectors(1, 4, seed=seed)))
        for seed in (1, 2)
    )
    logits = [x.layers[-1].logits_BQK for x in (plain, first, second)]
    assert logits[1].shape == logits[0].shape  # sub-words are read, they are no columns
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[1], logits[2])


@torch.no_grad()
def test_prompt_moves_between_devices_and_types() -> None:
    prompt = TextPrompt(
        vectors(1, 2), torch.ones(1, 2).bool(), vectors(1, 3), torch.ones(1, 3).bool()
    )
    moved = prompt.to("meta", torch.float16)
    assert moved.pooled_BKD.is_meta
    assert moved.pooled_BKD.dtype == torch.float16
    assert moved.tokens_BTD is not None
    assert moved.tokens_BTD.dtype == torch.float16
    assert moved.tokens_mask_BT is not None
    assert moved.tokens_mask_BT.dtype == torch.bool
    assert moved.pooled_mask_BK is not None
    assert TextPrompt(vectors(1, 2)).to("cpu").tokens_BTD is None
    assert TextPrompt.everything(7).pooled_BKD.shape == (1, 0, 7)


def test_training_step_in_bfloat16(
    make_sample: Callable[..., Sample], vocabulary: Vocabulary
) -> None:
    """As under accelerate: the network in bfloat16, the losses in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Mobius(get_preset("mobius-test")).train()
    samples = [
        make_sample(names=("cup", "dog")),
        make_sample(expression="the cup", referred=(0,), seed=1),
        make_sample(seed=2),
    ]
    batch = collate(samples, vocabulary, np.random.default_rng(0), (2, 4))
    images, losses = batch.images_B3HW.float() / 255, {}
    for kind in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
            out = network(images, batch.prompt)
        generator = torch.Generator().manual_seed(0)
        parts = Criterion()(out, batch.targets, batch.prompt, generator)
        losses[kind] = float(parts["loss"].detach())
        network.zero_grad()
        parts["loss"].backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.1)


@torch.no_grad()
def test_logits_stay_exact_in_bfloat16(network: Mobius) -> None:
    """Two names that differ by less than a step of bfloat16 keep their order."""
    classifier, generator = network.decoder.heads.classifier, torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 3, 32, generator=generator)
    text = torch.nn.functional.normalize(torch.randn(1, 2, 32, generator=generator), dim=-1)
    text[:, 1] = torch.nn.functional.normalize(text[:, 0] + 1e-4 * text[:, 1], dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        logits, objects = classifier(tokens, None, text, torch.ones(32))
    assert logits.dtype == objects.dtype == torch.float32
    assert bool((logits[..., 0] != logits[..., 1]).all())


@torch.no_grad()
def test_channels_last_gives_the_same(network: Mobius) -> None:
    plain = network(IMAGES, TextPrompt(vectors(1, 2))).layers[-1]
    copy = Mobius(network.config).eval()
    copy.load_state_dict(network.state_dict())
    copy = copy.to(memory_format=torch.channels_last)
    images = IMAGES.to(memory_format=torch.channels_last)
    other = copy(images, TextPrompt(vectors(1, 2))).layers[-1]
    torch.testing.assert_close(plain.boxes_BQ4, other.boxes_BQ4, rtol=1e-4, atol=1e-5)


def test_learns_one_picture(make_sample: Callable[..., Sample], vocabulary: Vocabulary) -> None:
    """Twenty-five steps: masks and boxes come out right, and the two names are told apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Mobius(get_preset("mobius-test"))
    sample = make_sample(names=("cup", "dog"))
    sample.image[:, 8:40, 4:30] = torch.tensor([250, 20, 20]).view(3, 1, 1).byte()
    sample.image[:, 20:61, 33:60] = torch.tensor([20, 20, 250]).view(3, 1, 1).byte()
    batch = collate([sample, sample], vocabulary, np.random.default_rng(0), (3, 3))
    images, generator = batch.images_B3HW.float() / 255, torch.Generator().manual_seed(0)
    optimizer, criterion = torch.optim.AdamW(network.parameters(), 4e-3), Criterion()
    first: dict[str, float] = {}
    for _ in range(25):
        parts = criterion(network(images, batch.prompt), batch.targets, batch.prompt, generator)
        optimizer.zero_grad()
        parts["loss"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        now = {key: float(value.detach()) for key, value in parts.items()}
        first = first or now
    assert now["quality"] > 0.7 > first["quality"]
    for part in ("mask", "dice", "box", "giou", "contrast", "dense", "loss"):
        assert now[part] < 0.7 * first[part], part


@pytest.mark.parametrize(
    ("plan", "message"),
    [({"keep": [0]}, "at least one query"), ({"layers": -1}, "0 to 2"), ({"layers": 3}, "0 to 2")],
)
def test_impossible_plans_are_refused(plan: dict[str, Any], message: str) -> None:
    network = Mobius(get_preset("mobius-test")).eval()
    with pytest.raises(InputError, match=message):
        network(torch.zeros(1, 3, 32, 32), TextPrompt.everything(384), **plan)


def test_text_is_fitted_to_many_names_and_left_alone_for_few() -> None:
    torch.manual_seed(0)
    common, directions = torch.randn(384), torch.randn(20, 384)
    names = F.normalize(torch.randn(200, 20) @ directions + 6 * common, dim=-1)
    network = Mobius(get_preset("mobius-test")).eval()
    before = network.text_projection.weight.clone()
    network.fit_text(names[:10])
    assert torch.equal(network.text_projection.weight, before)
    assert not network.get_buffer("text_mean").any()
    network.fit_text(names)
    torch.testing.assert_close(network.get_buffer("text_mean"), names.mean(0))
    centred = F.normalize(names - names.mean(0), dim=-1)
    projected = F.normalize(network.text_projection(centred), dim=-1)
    spread = network.text_projection(centred).square().mean(0).sort(descending=True).values
    own = torch.linalg.svdvals(centred)[:20]  # 20 directions fit into 32 channels
    torch.testing.assert_close(spread[:20] / spread[0], own / own[0], rtol=0.05, atol=0.0)
    assert float((names @ names.T).mean()) > 0.5
    assert abs(float((projected @ projected.T).detach().mean())) < 0.05


def test_vocabulary_is_projected_without_fusion() -> None:
    network = Mobius(get_preset("mobius-test")).eval()
    prompt = replace(TextPrompt(vectors(1, 2)), vocabulary_VD=vectors(1, 5)[0])
    one, other = network(IMAGES, prompt).regions, network(1 - IMAGES, prompt).regions
    assert one.vocabulary_VC.shape == (5, network.config.width)
    assert torch.equal(one.vocabulary_VC, other.vocabulary_VC)
    assert one.names_BChw.shape == (2, network.config.width, 4, 6)
    assert not torch.allclose(one.names_BChw, other.names_BChw)
    assert network(IMAGES, TextPrompt(vectors(1, 2))).regions is None
