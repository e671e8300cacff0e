"""What a stage does to network and optimiser when a step enters it."""

from pathlib import Path

import torch

from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.train.optim import make_optimizer
from mobius_seg.train.recipe import Recipe, Stage
from mobius_seg.train.settings import TrainConfig
from mobius_seg.train.stages import StageKeeper

STAGES = (Stage(share=1, frozen=("text_projection",)), Stage(share=1, lr=0.5, warmup=2))


def keeper(schedule: str) -> tuple[StageKeeper, Mobius, torch.optim.Optimizer]:
    recipe = Recipe(stages=STAGES, schedule=schedule)  # type: ignore[arg-type]
    config = TrainConfig(
        preset="mobius-test", out=Path("x"), steps=20, recipe=recipe, warmup=1, flat=1.0, lr=0.01
    )
    torch.manual_seed(0)
    network = Mobius(get_preset("mobius-test"))
    network.object_token.requires_grad_(False)  # frozen before: stays so
    optimizer = make_optimizer(network, config)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["step"] = torch.tensor(1.0)
    return StageKeeper(config, network, optimizer), network, optimizer


def lr(optimizer: torch.optim.Optimizer) -> float:
    """Factor on the peak rates."""
    group = optimizer.param_groups[0]
    return float(group["lr"] / group["peak_lr"])


def test_a_stage_freezes_and_the_next_thaws() -> None:
    stages, network, _ = keeper("stage")
    weight = network.text_projection.weight
    stages.enter(0, 0.0)
    assert not weight.requires_grad
    assert network.object_column.requires_grad
    stages.enter(9, 0.45)
    assert not weight.requires_grad
    stages.enter(10, 0.5)
    assert weight.requires_grad
    assert not network.object_token.requires_grad


def test_a_stage_begins_with_a_fresh_optimiser_on_its_first_step_alone() -> None:
    stages, _, optimizer = keeper("stage")
    stages.enter(13, 0.65)  # resumed inside: the moments are those of the checkpoint
    assert optimizer.state
    stages, _, optimizer = keeper("stage")
    stages.enter(10, 0.5)
    assert not optimizer.state
    assert lr(optimizer) == 0.25  # half the rate, half warm
    stages.enter(11, 0.55)
    assert lr(optimizer) == 0.5


def test_one_schedule_over_all_stages_keeps_the_optimiser() -> None:
    stages, _, optimizer = keeper("run")
    stages.enter(10, 0.5)
    assert optimizer.state
    assert lr(optimizer) == 0.5  # warm since the first steps
