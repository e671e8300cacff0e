"""Optimiser, learning rate and averaged weights."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mobius_seg.model import Mobius
from mobius_seg.train.settings import TrainConfig

_TEXT_RATE = 0.1
_SCALE_RATE = 5.0


def make_optimizer(network: Mobius, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over what is trainable: the backbone slower, vectors and scalars without decay.

    The text projection carries what the encoder knows about names never seen: it moves at a tenth
    of the rate, and does not decay. The logits' scales are single numbers that must change by
    factors: at the rate of the others, a factor of four took 2,000 steps and held the names back.

    Args:
        network: the model, frozen parts already marked.
        config: rates and decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        lr, decay = config.lr, config.weight_decay if parameter.ndim > 1 else 0.0
        if name.startswith("backbone.body"):
            lr = config.backbone_lr
        elif name.startswith("text_projection"):
            lr, decay = config.lr * _TEXT_RATE, 0.0
        elif name.endswith("log_scale"):
            lr = config.lr * _SCALE_RATE
        groups.setdefault((lr, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}
            for (lr, decay), parameters in sorted(groups.items(), key=lambda item: item[0])
        ]
    )


def rate(step: int, progress: float, config: TrainConfig, warmup: int | None = None) -> float:
    """Factor on the peak learning rate: linear warm-up, flat, cosine to 1 %.

    Args:
        step: steps done.
        progress: share of the run that is done, 0..1.
        config: warm-up and the share of the flat part.
        warmup: steps of warm-up in place of the configured ones.
    """
    warm = min(1.0, (step + 1) / max(config.warmup if warmup is None else warmup, 1))
    if progress <= config.flat:
        return warm
    tail = min((progress - config.flat) / max(1 - config.flat, 1e-9), 1.0)
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * tail)))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to its peak times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def make_average(network: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of weights and buffers, with a warm-up of the decay.

    The decay after n updates is min(decay, (1 + n) / (10 + n)), so early averages forget the start.

    Args:
        network: what is averaged; the average lives on the same device.
        decay: final decay.
    """
    return AveragedModel(network, multi_avg_fn=_average_with(decay), use_buffers=True)


Tensors = tuple[Tensor, ...] | list[Tensor]


def _average_with(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """The update of :func:`make_average` for lists of tensors."""

    @torch.no_grad()
    def update(average: Tensors, current: Tensors, count: Tensor | int) -> None:
        n = float(count)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        if torch.is_floating_point(average[0]):  # torch groups the tensors by dtype
            torch._foreach_lerp_(average, current, weight)
        else:
            torch._foreach_copy_(average, current)

    return update
