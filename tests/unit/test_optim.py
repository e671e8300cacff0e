"""Learning rate, parameter groups, averaged weights and the plan of a step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobius_seg.errors import InputError
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.train.batches import step_plan
from mobius_seg.train.optim import make_average, make_optimizer, rate
from mobius_seg.train.settings import TrainConfig, parse_sizes

CONFIG = TrainConfig(preset="mobius-test", out=Path("unused"), steps=100, warmup=10, flat=0.5)


def test_rate_warms_up_stays_and_falls() -> None:
    assert rate(0, 0.0, CONFIG) == pytest.approx(0.1)
    assert rate(9, 0.09, CONFIG) == 1.0
    assert rate(50, 0.5, CONFIG) == 1.0
    assert rate(75, 0.75, CONFIG) == pytest.approx(0.01 + 0.99 * 0.5)
    assert rate(100, 1.0, CONFIG) == pytest.approx(0.01)


def test_groups_hold_each_trainable_parameter_once() -> None:
    network = Mobius(get_preset("mobius-test"))
    frozen = network.backbone.freeze(8)
    groups = make_optimizer(network, CONFIG).param_groups
    held = [id(p) for group in groups for p in group["params"]]
    wanted = [id(p) for p in network.parameters() if p.requires_grad]
    assert sorted(held) == sorted(wanted)
    assert len(wanted) == len(list(network.parameters())) - frozen
    assert frozen > 0
    projection = network.text_projection.weight
    for group in groups:
        decays = all(p.ndim > 1 and p is not projection for p in group["params"])
        assert (group["weight_decay"] > 0) == decays
    slow, fast = 0.1 * CONFIG.lr, 5 * CONFIG.lr
    assert {group["lr"] for group in groups} == {CONFIG.lr, CONFIG.backbone_lr, slow, fast}
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates[id(projection)] == slow
    assert rates[id(network.decoder.heads.classifier.log_scale)] == fast


def test_average_follows_its_formula() -> None:
    network = torch.nn.BatchNorm1d(1)
    average = make_average(network, decay=0.9)
    expected = None
    for n, value in enumerate([1.0, 2.0, 4.0]):
        with torch.no_grad():
            network.weight.fill_(value)
        average.update_parameters(network)
        # torch copies at the first update
        decay = min(0.9, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected)


def test_plan_is_repeatable_and_keeps_enough() -> None:
    model = get_preset("mobius-n")
    config = TrainConfig(preset="mobius-n", out=Path("unused"), steps=10)
    plans = [step_plan(config, model, step, targets=12) for step in range(300)]
    assert plans == [step_plan(config, model, step, targets=12) for step in range(300)]
    depths = {layers for _, layers in plans}
    assert depths == set(range(1, model.decoder_layers + 1))
    kept = [keep for keep, _ in plans if keep is not None]
    assert 0.25 < len(kept) / 300 < 0.55
    for keep in kept:
        assert min(keep) >= 24
        assert max(keep) <= model.queries
        assert list(keep) == sorted(keep, reverse=True)
    assert len(np.unique([keep[0] for keep in kept])) > 20


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 10**400}, "steps is 1000"),
        ({"steps": 2.5}, r"steps is 2\.5; allowed: whole numbers"),
        ({"batch_size": 1.5}, r"batch_size is 1\.5; allowed: whole numbers"),
        ({"batch_size": 10**30}, "allowed: up to 65536"),
        ({"lr": 10**400}, "lr is 1000"),
        ({"seed": 10**400}, "seed is 1000"),
        ({"negatives": (1,)}, "two rising counts"),
        ({"negatives": (1, 10**12)}, "two rising counts"),
        ({"sizes": ((0.0, 64), (float("nan"), 96))}, "rising fractions"),
        ({"sizes": ((0.0, 3_200_000), (0.5, 96))}, "multiples of 32 up to 8192"),
    ],
)
def test_numbers_that_no_run_can_have(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        TrainConfig(**{"preset": "mobius-test", "out": Path("unused"), "steps": 10, **changes})
    assert len(str(caught.value)) < 200


def test_parse_sizes() -> None:
    assert parse_sizes("256") == ((0.0, 256),)
    assert parse_sizes("160@0,192@0.4") == ((0.0, 160), (0.4, 192))
    for text in ("", "big", "160@", "@0", "160@0;192@1"):
        with pytest.raises(InputError, match="--size"):
            parse_sizes(text)


def test_size_schedule() -> None:
    config = TrainConfig(
        preset="mobius-n", out=Path("unused"), steps=100, sizes=((0.0, 160), (0.4, 192))
    )
    assert [config.size_at(step) for step in (0, 39, 40, 99)] == [160, 160, 192, 192]
