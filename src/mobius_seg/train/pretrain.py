"""Teach a backbone the names before the masks: single cut-outs, one softmax over all names.

A scene shows six names in 65,000 pixels, most of them small; a picture of 96 pixels that one object
fills costs a tenth of that and asks for nothing but its name. What is learned is the backbone's
body; the probe that reads names off it is thrown away (docs/experiments.md has the figures).
"""

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mobius_seg.backbone import Backbone, load_imagenet
from mobius_seg.calibration import name_contrast, synonym_weight
from mobius_seg.data.compose import scene_rng
from mobius_seg.data.pack import Pack
from mobius_seg.data.scenes import SceneComposer
from mobius_seg.errors import InputError
from mobius_seg.files import atomic_path, write_text
from mobius_seg.presets import get_preset
from mobius_seg.train.batches import Steps
from mobius_seg.train.record import pretrained_sources
from mobius_seg.train.settings import BACKBONE_FILE, PRETRAINING_FILE, check_positive

CLOSE_UP = (0.25, 0.95)
"""Longest side of the object over the picture's side."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining of a backbone.

    Attributes:
        preset: model whose backbone is trained.
        out: folder for ``backbone.safetensors`` and ``pretraining.json``.
        pack: file of ``mobius-seg assets pack``.
        minutes: wall-clock minutes.
        size: side of the pictures in pixels.
        batch_size: pictures a step.
        lr: peak learning rate of the backbone; the probe has three times that.
        pretrained: start from ImageNet weights where there are any.
        freeze_stride: the backbone is frozen up to the map of this stride (0 = nothing).
        threads: CPU threads of torch; 0 leaves torch's choice.
        seed: of everything random.
    """

    preset: str
    out: Path
    pack: Path = Path("assets/pack.safetensors")
    minutes: float = 25.0
    size: int = 96
    batch_size: int = 64
    lr: float = 6e-4
    pretrained: bool = True
    freeze_stride: int = 8
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject what cannot be trained.

        Raises:
            InputError: names the field, the value and what is allowed.
        """
        check_positive(self, ("minutes", "batch_size", "lr"))
        if self.size < 32 or self.size % 32 or self.size > 512:
            raise InputError(
                f"PretrainConfig.size is {self.size}; allowed: multiples of 32 up to 512"
            )
        if not 0 <= self.seed < 2**63 or not 0 <= self.threads <= 1024:
            raise InputError("PretrainConfig: seed and threads (at most 1024) start at 0")


@dataclass(frozen=True, kw_only=True)
class CloseUps:
    """A batch of single objects.

    Attributes:
        images_B3SS: uint8 RGB.
        cover_BSS: float 0..1, visible mask of the object.
        rows_B: int64, row of its name among the names of the split's side.
    """

    images_B3SS: Tensor
    cover_BSS: Tensor
    rows_B: Tensor


class CloseUpBatches(Dataset[CloseUps]):
    """The batch of every step, made from (seed, step) alone.

    Args:
        pack: an open pack.
        config: sizes and seed.
        split: whose cut-outs are shown.
    """

    def __init__(self, pack: Pack, config: PretrainConfig, split: str = "train") -> None:
        """See the class."""
        self.config = config
        self.composer = SceneComposer(pack, split, config.size, side_range=CLOSE_UP, max_objects=2)
        base = [i for i, side in enumerate(pack.name_split) if side == "base"]
        self._row = {name: row for row, name in enumerate(base)}

    def __getitem__(self, step: int) -> CloseUps:
        """Close-ups of a step; where two objects lie in one picture, the larger is asked for."""
        images, covers, rows = [], [], []
        for i in range(self.config.batch_size):
            scene = self.composer.compose(
                scene_rng(self.config.seed, step * self.config.batch_size + i)
            )
            largest = int(scene.masks.sum((1, 2)).argmax())
            images.append(scene.image)
            covers.append(scene.masks[largest])
            rows.append(self._row[int(scene.name_ids[largest])])
        return CloseUps(
            images_B3SS=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
            cover_BSS=torch.from_numpy(np.stack(covers)).float(),
            rows_B=torch.tensor(rows),
        )

    def __len__(self) -> int:
        """Nominal; steps are drawn by number."""
        return 2**31


class NameProbe(nn.Module):
    """Names read off a backbone: two levels averaged over the mask, one linear map, cosine.

    Args:
        channels: of the maps at strides 16 and 32.
        names_KD: L2-normalised text vectors of all names.
    """

    def __init__(self, channels: tuple[int, int], names_KD: Tensor) -> None:
        """See the class."""
        super().__init__()
        centred = F.normalize(names_KD - names_KD.mean(0), dim=-1)
        self.register_buffer("names_KD", centred)
        self.norm = nn.LayerNorm(sum(channels))
        self.embed = nn.Linear(sum(channels), names_KD.shape[1])
        self.log_scale = nn.Parameter(torch.tensor(15.0).log())

    def forward(self, maps: list[Tensor], cover_BSS: Tensor) -> Tensor:
        """Maps at strides 4, 8, 16, 32 and masks -> logits [B, K]."""
        parts = []
        for level in maps[2:]:
            weight = F.adaptive_avg_pool2d(cover_BSS[:, None], (level.shape[2], level.shape[3]))
            total = weight.sum((2, 3)).clamp(min=1e-6)
            parts.append((level * weight).sum((2, 3)) / total)
        vectors_BD = F.normalize(self.embed(self.norm(torch.cat(parts, 1))), dim=-1)
        return self.log_scale.exp() * vectors_BD @ self.get_buffer("names_KD").T


def pretrain(config: PretrainConfig) -> Path:
    """Train the backbone of a preset to name close-ups.

    Args:
        config: the run.

    Returns:
        ``config.out / "backbone.safetensors"``, for ``mobius-seg train --backbone``.

    Raises:
        InputError: the pack or the preset cannot be used.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = get_preset(config.preset)
    pack = Pack.open(config.pack)
    backbone = Backbone(model)
    start = "random"
    if config.pretrained:
        start = load_imagenet(backbone, model.backbone, config.pack.parent) or start
    backbone.freeze_norm = start != "random"
    backbone.freeze(config.freeze_stride if start != "random" else 0)
    base = [i for i, side in enumerate(pack.name_split) if side == "base"]
    names_KD = torch.from_numpy(np.asarray(pack.name_embeddings, dtype=np.float32))[base]
    channels = backbone.channels
    probe = NameProbe((channels[2], channels[3]), names_KD)
    backbone.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    probe.to(device)
    mean = torch.tensor(model.image_mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(model.image_std, device=device).view(1, 3, 1, 1)
    runner = _Runner(config, backbone, probe, mean, std, device)
    runner.go(CloseUpBatches(pack, config))
    record = {
        "settings": {k: v for k, v in dataclasses.asdict(config).items() if k not in _PLACES},
        "start": start,
        "steps": runner.step,
        "images": runner.step * config.batch_size,
        "calib_top1": runner.accuracy(CloseUpBatches(pack, config, "calib"), 8),
        "assets": pretrained_sources(start),
        "curve": runner.log,
    }
    return _write(config.out, backbone, record)


_PLACES = ("out", "pack")


def _write(out: Path, backbone: Backbone, record: dict[str, Any]) -> Path:
    """The backbone's body and the record beside it."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in backbone.body.state_dict().items()}
    with atomic_path(out / BACKBONE_FILE) as temporary:
        save_file(tensors, temporary)
    write_text(out / PRETRAINING_FILE, json.dumps(record, indent=2) + "\n")
    return out / BACKBONE_FILE


class _Runner:
    """The loop and what it holds."""

    def __init__(
        self,
        config: PretrainConfig,
        backbone: Backbone,
        probe: NameProbe,
        mean: Tensor,
        std: Tensor,
        device: torch.device,
    ) -> None:
        self.config, self.backbone, self.probe = config, backbone, probe
        self.mean, self.std, self.device = mean, std, device
        self.step = 0
        self.log: list[dict[str, float]] = []
        body = [p for p in backbone.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": body, "peak_lr": config.lr},
                {"params": list(probe.parameters()), "peak_lr": 3 * config.lr},
            ],
            lr=config.lr,
            weight_decay=0.02,
        )
        names_KD = probe.get_buffer("names_KD")
        self.push_KK = synonym_weight(names_KD @ names_KD.T)

    def go(self, batches: CloseUpBatches) -> None:
        """Take steps until the minutes are over; the rate falls as a cosine after 40 % of them."""
        loader = DataLoader(
            batches, batch_size=None, sampler=Steps(0, 2**31), num_workers=1, prefetch_factor=4
        )
        begun, right, loss_sum = time.monotonic(), 0.0, 0.0
        for batch in loader:
            share = (time.monotonic() - begun) / (self.config.minutes * 60)
            if share >= 1:
                break
            self._set_rate(share)
            loss, accuracy = self._train(batch)
            right, loss_sum = right + accuracy, loss_sum + loss
            self.step += 1
            if self.step % _LOG_STEPS == 0:
                minutes = (time.monotonic() - begun) / 60
                self._report(minutes, loss_sum / _LOG_STEPS, right / _LOG_STEPS)
                right = loss_sum = 0.0

    def _set_rate(self, share: float) -> None:
        tail = max(0.0, (share - 0.4) / 0.6)
        factor = min(1.0, (self.step + 1) / 100) * (0.01 + 0.495 * (1 + math.cos(math.pi * tail)))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def _logits(self, batch: CloseUps) -> Tensor:
        images = (batch.images_B3SS.to(self.device).float() / 255 - self.mean) / self.std
        maps = self.backbone(images.contiguous(memory_format=torch.channels_last))
        logits_BK: Tensor = self.probe(maps, batch.cover_BSS.to(self.device))
        return logits_BK

    def _train(self, batch: CloseUps) -> tuple[float, float]:
        """One step; its loss and top-1 accuracy."""
        logits_BK = self._logits(batch)
        rows_B = batch.rows_B.to(self.device)
        named_BK = F.one_hot(rows_B, logits_BK.shape[1]).bool()
        loss = name_contrast(logits_BK, named_BK, self.push_KK[rows_B]).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.backbone.parameters(), 2.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), float((logits_BK.argmax(1) == rows_B).float().mean())

    @torch.no_grad()
    def accuracy(self, batches: CloseUpBatches, count: int) -> float:
        """Top-1 accuracy on the first ``count`` batches."""
        self.backbone.eval()
        right = [
            (self._logits(batch).argmax(1).cpu() == batch.rows_B).float().mean()
            for batch in (batches[i] for i in range(count))
        ]
        return round(float(torch.stack(right).mean()), 4)

    def _report(self, minutes: float, loss: float, accuracy: float) -> None:
        images = self.step * self.config.batch_size
        entry = {"minutes": minutes, "images": images, "loss": loss, "top1": accuracy}
        self.log.append({key: round(value, 4) for key, value in entry.items()})
        Console(stderr=True).print(
            f"{minutes:.1f} min  {images} close-ups  loss {loss:.2f}  top-1 {accuracy:.2f}"
        )


_LOG_STEPS = 50
