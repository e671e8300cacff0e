"""The loop of a pretraining: one softmax over all names, under given masks."""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from mobius_seg.checkpoint import WEIGHTS_FILE, find_folder
from mobius_seg.errors import InputError
from mobius_seg.files import write_text
from mobius_seg.json_values import parse_json
from mobius_seg.loss_config import LossConfig
from mobius_seg.model import Mobius
from mobius_seg.train.batches import Steps
from mobius_seg.train.checkpoints import State, load_checkpoint, save_checkpoint
from mobius_seg.train.crowds import Crowd, CrowdBatches
from mobius_seg.train.folded import fold_norms
from mobius_seg.train.precision import channels_last, choose_precision
from mobius_seg.train.pretrain_settings import MINUTES, PretrainConfig
from mobius_seg.train.workers import start_worker

_LOG_STEPS = 50
_SCALE = 30.0  # of the cosines, before it is learnt
RUN_FILE = "pretraining_run.json"
_SAME = ("preset", "seed", "batch_size", "size", "lr", "freeze_stride", "pretrained")


class NamesRun:
    """The loop and what it holds.

    Args:
        config: the run; with ``resume`` the last checkpoint in ``config.out`` is restored.
        network: what is trained: its backbone as far as it has gradients, and its name map.
        names_KD: text vectors of the names.
        teacher: network whose answers are learnt too; of any preset with a name map.

    Raises:
        InputError: there is no checkpoint to go on from, it is another run's, or the teacher has
            no name map.
    """

    def __init__(
        self,
        config: PretrainConfig,
        network: Mobius,
        names_KD: Tensor,
        teacher: Mobius | None = None,
    ) -> None:
        """See the class."""
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = channels_last(network.to(self.device))
        fold_norms(self.network.backbone)
        self.half = choose_precision(config.precision) == "bf16"
        threads = f"CPU, {torch.get_num_threads()} threads"
        self.described = torch.cuda.get_device_name() if self.device.type == "cuda" else threads
        self.held = _Held(network, torch.tensor(_SCALE, device=self.device).log())
        body = [p for p in network.backbone.parameters() if p.requires_grad]
        assert network.name_map is not None  # checked before
        head = [*network.name_map.parameters(), self.held.log_scale]
        self.optimizer = torch.optim.AdamW(
            [{"params": body, "peak_lr": config.lr}, {"params": head, "peak_lr": 3 * config.lr}],
            lr=config.lr,
            weight_decay=0.02,
        )
        self.state: State = {"step": 0, "images": 0, "objects": 0, "seconds": 0.0, "log": []}
        self.stop = False
        if config.resume:
            _check_same(config)
            self.state = load_checkpoint(self._checkpoints, self.held, None, self.optimizer)
        # After the checkpoint, which brings the projection of the names too.
        self.namer = _Namer(self.network, names_KD.to(self.device), self.half)
        self.teacher: _Namer | None = None
        if teacher is not None:
            if teacher.name_map is None:
                raise InputError(f"{config.teacher}: has no name map to learn from")
            teacher = channels_last(teacher.to(self.device)).eval()
            self.teacher = _Namer(teacher, names_KD.to(self.device), self.half)
        self._begun = time.monotonic() - self.state["seconds"]
        self._stored = self.state["seconds"]

    @property
    def _checkpoints(self) -> Path:
        return self.config.out / "checkpoints"

    def go(self, batches: CrowdBatches, end: float) -> None:
        """Take steps until a share of the run is over.

        Raises:
            KeyboardInterrupt: the run was asked to stop; a checkpoint is stored.
            InputError: the loss is not finite.
        """
        if self.share() >= end:
            return
        text = json.dumps(_identity(self.config), indent=2)
        write_text(self.config.out / RUN_FILE, text + "\n")
        loader = DataLoader(
            batches,
            batch_size=None,
            sampler=Steps(self.state["step"], 2**31),
            num_workers=1,
            prefetch_factor=4,
            worker_init_fn=start_worker,
        )
        self.network.train()
        seen: list[tuple[float, float]] = []
        for batch in loader:
            if self.stop:
                self.checkpoint()
                raise KeyboardInterrupt
            if self.share() >= end:
                break
            self._set_rate(self.share())
            seen.append(self._train(batch))
            self.state["step"] += 1
            self.state["images"] += len(batch.images_B3SS)
            self.state["objects"] += len(batch.rows_T)
            self.state["seconds"] = time.monotonic() - self._begun
            if self.state["step"] % _LOG_STEPS == 0:
                loss, accuracy = np.mean(seen, 0)
                self._report(float(loss), float(accuracy))
                seen = []
            if self.state["seconds"] - self._stored >= self.config.checkpoint_minutes * 60:
                self.checkpoint()

    def checkpoint(self) -> None:
        """Store everything needed to go on."""
        save_checkpoint(self._checkpoints, self.state, self.held, None, self.optimizer)
        self._stored = self.state["seconds"]

    def share(self) -> float:
        """Share of the run that is done."""
        if self.config.steps is not None:
            return float(self.state["step"] / self.config.steps)
        minutes = MINUTES if self.config.minutes is None else self.config.minutes
        return float(self.state["seconds"] / (minutes * 60))

    def _set_rate(self, share: float) -> None:
        tail = max(0.0, (share - 0.45) / 0.55)  # flat, then a cosine to 1 %
        warm = min(1.0, (self.state["step"] + 1) / 100)
        factor = warm * (0.01 + 0.495 * (1 + math.cos(math.pi * tail)))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def _train(self, batch: Crowd) -> tuple[float, float]:
        """One step; its cross-entropy and top-1 accuracy."""
        cosine_TK = self.namer.cosines(batch)
        rows_T = batch.rows_T.to(self.device)
        logits_TK = self.held.log_scale.exp() * cosine_TK
        contest = F.cross_entropy(logits_TK, rows_T, label_smoothing=0.05)
        if self.teacher is not None:
            with torch.no_grad():
                taught_TK = (_SCALE * self.teacher.cosines(batch)).softmax(-1)
            share = taught_share(self.config)
            contest = (1 - share) * contest + share * F.cross_entropy(logits_TK, taught_TK)
        distance_T = 1 - cosine_TK.gather(1, rows_T[:, None])
        loss = contest + LossConfig().pull * distance_T.mean()  # as regions.region_loss
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.backbone.parameters(), 2.0)
        if not bool(torch.isfinite(loss)):
            step = self.state["step"]
            raise InputError(f"the loss was not finite in step {step}; lower --lr")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(contest.detach()), float((cosine_TK.argmax(1) == rows_T).float().mean())

    @torch.no_grad()
    def accuracy(self, batches: Sequence[Crowd]) -> float:
        """Top-1 accuracy over the objects of some batches."""
        self.network.eval()
        right = [self.namer.cosines(batch).argmax(1).cpu() == batch.rows_T for batch in batches]
        return round(float(torch.cat(right).float().mean()), 4)

    def _report(self, loss: float, accuracy: float) -> None:
        minutes = self.state["seconds"] / 60
        objects = self.state["objects"]
        entry = {"minutes": minutes, "objects": objects, "loss": loss, "top1": accuracy}
        self.state["log"].append({key: round(value, 4) for key, value in entry.items()})
        Console(stderr=True).print(
            f"{minutes:.1f} min  {objects} objects  loss {loss:.2f}  top-1 {accuracy:.2f}"
        )


class _Namer:
    """A network's answers under given masks.

    Args:
        network: with a name map, on its device.
        names_KD: text vectors of the names, on the same.
        half: compute the maps in bfloat16.
    """

    def __init__(self, network: Mobius, names_KD: Tensor, half: bool) -> None:
        assert network.name_map is not None  # checked before
        self.network, self.name_map, self.half = network, network.name_map, half
        with torch.no_grad():
            self.vocabulary_KC = network.project_names(names_KD)

    def cosines(self, batch: Crowd) -> Tensor:
        """Cosine of each object to each name: [T, K]."""
        network, device = self.network, self.vocabulary_KC.device
        mean, std = network.get_buffer("image_mean"), network.get_buffer("image_std")
        images = (batch.images_B3SS.to(device).float() / 255 - mean) / std
        with torch.autocast(device.type, torch.bfloat16, enabled=self.half):
            maps = network.backbone(images.contiguous(memory_format=torch.channels_last))
            names_BChw = self.name_map(maps[2], maps[3]).float()
        cover_TN = batch.cover_TN.to(device)
        if names_BChw[0, 0].numel() != cover_TN.shape[1]:  # a teacher whose map is finer or coarser
            side = math.isqrt(cover_TN.shape[1])
            names_BChw = F.interpolate(names_BChw, (side, side), mode="area")
        names_BNC = names_BChw.flatten(2).transpose(1, 2)
        sum_TC = torch.einsum("tn,tnc->tc", cover_TN, names_BNC[batch.picture_T.to(device)])
        cosine_TK: Tensor = F.normalize(sum_TC, dim=-1) @ self.vocabulary_KC.T
        return cosine_TK


class _Held(nn.Module):
    """What a checkpoint holds: the network, and the scale that its cosines are trained with."""

    def __init__(self, network: Mobius, log_scale: Tensor) -> None:
        super().__init__()
        self.network = network
        self.log_scale = nn.Parameter(log_scale)


def _identity(config: PretrainConfig) -> dict[str, Any]:
    """What makes a run this run and no other."""
    values = {key: getattr(config, key) for key in _SAME}
    return {
        **values,
        "weights": _digest(config.weights),
        "teacher": _digest(config.teacher),
        "taught": taught_share(config),
    }


def taught_share(config: PretrainConfig) -> float:
    """Part of the loss that a teacher's answers make up: half of it unless told otherwise."""
    if config.teacher is None:
        return 0.0
    return 0.5 if config.teacher_share is None else config.teacher_share


def _digest(folder: Path | None) -> str | None:
    """SHA-256 of a model's weights."""
    if folder is None:
        return None
    return hashlib.sha256((find_folder(folder) / WEIGHTS_FILE).read_bytes()).hexdigest()


def _check_same(config: PretrainConfig) -> None:
    """Refuse to go on with a run under settings that make it another run."""
    file = config.out / RUN_FILE
    if not file.is_file():
        return  # the missing checkpoint is told of
    asked = _identity(config)
    try:
        stored: Any = parse_json(file.read_text(encoding="utf-8"))
        begun = {key: stored[key] for key in asked}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from None
    for key, value in begun.items():
        if value != asked[key]:
            raise InputError(
                f"{config.out}: was begun with {key} {value!r}, not {asked[key]!r}; give the same,"
                " or choose another --out"
            )
