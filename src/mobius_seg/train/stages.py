"""Stages on the loop: what is frozen, and the learning rate, at every step (recipe.py)."""

import bisect
import logging

import torch

from mobius_seg.errors import InputError
from mobius_seg.model import Mobius
from mobius_seg.train.optim import rate, set_rate
from mobius_seg.train.recipe import Stage
from mobius_seg.train.settings import TrainConfig

logger = logging.getLogger(__name__)


class StageKeeper:
    """Puts network and optimiser into the state of a step's stage; a run without a recipe is one.

    Everything follows from the step's number, so that a run resumed anywhere, on a border too, is
    the same run.

    Args:
        config: the run.
        network: what is trained; parameters that are frozen now stay so in every stage.
        optimizer: holds the others.

    Raises:
        InputError: a stage freezes what is not there, or everything.
    """

    def __init__(
        self, config: TrainConfig, network: Mobius, optimizer: torch.optim.Optimizer
    ) -> None:
        """See the class."""
        self.config, self.optimizer = config, optimizer
        self._trained = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        self._stages: tuple[Stage, ...] = ()
        self._starts: list[int] = []
        self._now = -1
        if config.recipe is not None:
            assert config.steps is not None
            self._stages = config.recipe.stages
            self._starts = config.recipe.starts(config.steps)
            names = [name for name, _ in network.named_parameters()]
            for number, stage in enumerate(self._stages, start=1):
                self._check(number, stage, names)

    def enter(self, step: int, progress: float) -> None:
        """Prepare for a step.

        Args:
            step: its number.
            progress: share of the run that is done, 0..1.
        """
        if self.config.recipe is None:
            set_rate(self.optimizer, rate(step, progress, self.config))
            return
        number = bisect.bisect_right(self._starts, step) - 1
        number = min(number, len(self._stages) - 1)
        stage, first, end = self._stages[number], self._starts[number], self._starts[number + 1]
        own = self.config.recipe.schedule == "stage"
        if number != self._now:
            logger.info("stage %d %s from step %d", number + 1, stage.name, step)
            for name, parameter in self._trained:
                parameter.requires_grad_(not _frozen(name, stage))
            if own and step == first:
                self.optimizer.state.clear()
            self._now = number
        warmup = self.config.warmup if stage.warmup is None else stage.warmup
        if own:
            step, progress = step - first, (step - first) / (end - first)
        factor = rate(step, progress, self.config, warmup)
        set_rate(self.optimizer, stage.lr * factor)

    def _check(self, number: int, stage: Stage, names: list[str]) -> None:
        """What a stage freezes must be there, and something must be left to train."""
        for frozen in stage.frozen:
            if not any(_begins(name, frozen) for name in names):
                modules = sorted({name.partition(".")[0] for name in names})
                raise InputError(
                    f"stage {number} of the recipe freezes {frozen!r}, which is no part of the"
                    f" network; allowed: {', '.join(modules)}, or parts of them"
                )
        if all(_frozen(name, stage) for name, _ in self._trained):
            raise InputError(f"stage {number} of the recipe freezes everything")


def _begins(name: str, part: str) -> bool:
    """Whether a parameter is, or lies in, a part of the network."""
    return name == part or name.startswith(f"{part}.")


def _frozen(name: str, stage: Stage) -> bool:
    return any(_begins(name, part) for part in stage.frozen)
