"""Training runs of seconds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mobius_seg.train.loop import Run
from mobius_seg.train.settings import TrainConfig


def settings(pack: Path, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "preset": "mobius-test",
        "out": out,
        "pack": pack,
        "steps": 6,
        "batch_size": 2,
        "sizes": ((0.0, 64),),
        "negatives": (2, 6),
        "expression_ratio": 0.0,
        "freeze_stride": 0,
        "freeze_norm": False,
        "pretrained": False,
        "warmup": 2,
        "workers": 0,
        "log_steps": 2,
        "snapshot_minutes": 0,
    }
    return TrainConfig(**{**values, **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Stop the run politely once it has taken so many steps, at least one."""
    take = Run._step

    def interrupted(self: Run, batch: Any) -> dict[str, float]:
        losses = take(self, batch)
        self.stop = self.state["step"] == step
        return losses

    monkeypatch.setattr(Run, "_step", interrupted)
