"""What is billed or timed is what is executed: models with parts that policies do not run."""

import dataclasses

import pytest
import torch
from tests.support.models import HashEncoder
from torch import Tensor

from mobius_seg import latency
from mobius_seg.budget import plan_gmac
from mobius_seg.config import ModelConfig
from mobius_seg.cost.closed import mask_cost
from mobius_seg.cost.dispatch import OperatorCounter
from mobius_seg.cost.record import Workload
from mobius_seg.latency import measure_latency
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.prompts import Prompt, build_batch
from mobius_seg.pruned_decoder import run_pruned
from mobius_seg.pruning import PruningPolicy

TEST = get_preset("mobius-test")


def decoder_macs(config: ModelConfig, images: Tensor, policy: PruningPolicy) -> dict[str, int]:
    """Dispatched MAC of a pruned run whose first image alone is sure, by part."""
    network = Mobius(config).eval()
    prompt = build_batch([Prompt(names=("cup", "dog"))], HashEncoder())

    def rank(_stage: int, image: int, _index: Tensor, score: Tensor) -> Tensor:
        return torch.full_like(score, 1.0 if image == 0 else 0.0)

    counter = OperatorCounter()
    with torch.inference_mode(), counter.following(network), counter, counter.inside("rest"):
        run_pruned(network, network.encode(images, prompt), policy, rank=rank)
    return counter.macs


def test_selection_masks_are_not_billed_where_they_are_not_run() -> None:
    config = dataclasses.replace(TEST, selection_masks=True)
    macs = decoder_macs(config, torch.rand(1, 3, 64, 64), PruningPolicy())
    work = Workload(height=64, width=64, names=2)
    masks = mask_cost(config, 64, 64, config.queries) / 1e9  # of the last layer, not run here
    executed = sum(value for part, value in macs.items() if part != "rest") / 1e9
    planned = plan_gmac(config, work, (config.queries,) * (config.decoder_layers + 1))
    assert planned == pytest.approx(executed + masks, rel=1e-3)


def test_an_image_that_stopped_projects_no_memory() -> None:
    config = dataclasses.replace(TEST, decoder_layers=3, share_value_projection=False)
    policy = PruningPolicy(settle=1e9, sure=0.5)
    images = torch.rand(2, 3, 64, 64)
    two = decoder_macs(config, images, policy)
    part = "transformer_decoder.layer{}.cross_attention.value"
    # The first image stops after layer 1, the second runs all three.
    assert two[part.format(1)] == 2 * two[part.format(2)] == 2 * two[part.format(3)] > 0


def test_stopped_images_leave_the_others_as_they_are() -> None:
    config = dataclasses.replace(TEST, decoder_layers=3, share_value_projection=False)
    network = Mobius(config).eval()
    prompt = build_batch([Prompt(names=("cup", "dog"))], HashEncoder())
    images = torch.rand(3, 3, 64, 64)

    def rank(_stage: int, image: int, _index: Tensor, score: Tensor) -> Tensor:
        return torch.full_like(score, 1.0 if image == 0 else 0.0)

    policy = PruningPolicy(settle=1e9, sure=0.5)
    with torch.inference_mode():
        together = run_pruned(network, network.encode(images, prompt), policy, rank=rank)
        alone = run_pruned(network, network.encode(images[2:], prompt), PruningPolicy())[0]
    assert [len(one.queries) for one in together] == [2, 4, 4]
    torch.testing.assert_close(
        together[2].output.layers[-1].boxes_BQ4, alone.output.layers[-1].boxes_BQ4
    )


@pytest.mark.parametrize("share", [True, False])
def test_a_projection_of_each_layer_is_timed_in_each_layer(
    share: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "_median_ms", lambda *_: 1.0)
    config = dataclasses.replace(TEST, share_value_projection=share)
    prompt = build_batch([Prompt(names=("cup",))], HashEncoder())
    profile = measure_latency(Mobius(config).eval(), torch.rand(1, 3, 64, 64), prompt)
    queries = config.queries
    # Encoder, selection and masks, one projection (or two), two layers: a millisecond each.
    assert profile.plan_ms((queries,) * 3) == (6.0 if share else 7.0)
    assert profile.plan_ms((queries,)) == 3.0
