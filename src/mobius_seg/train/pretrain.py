"""Teach a backbone the names before the masks: given masks, one softmax over all names.

Full training looks at some fifty objects a second on two cores, and most of its work goes into
masks. Here only the backbone and the name map run, and each object is named among all names under
its true mask: more objects a second, and no other loss in the gradient. What a backbone from
ImageNet cannot do is to keep neighbours apart, so pictures begin with a single object and fill up
(docs/experiments.md has the figures).
"""

import dataclasses
import datetime
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mobius_seg.backbone import load_imagenet
from mobius_seg.checkpoint import RUN_MODEL, TRAINING_FILE, find_folder, load_model, save_model
from mobius_seg.data.compose import scene_rng
from mobius_seg.data.pack import Pack
from mobius_seg.data.scenes import SceneComposer
from mobius_seg.errors import InputError
from mobius_seg.files import atomic_path, write_text
from mobius_seg.loss_config import LossConfig
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.segment_files import make_folder
from mobius_seg.train.batches import Steps
from mobius_seg.train.folded import fold_norms
from mobius_seg.train.precision import channels_last, choose_precision
from mobius_seg.train.pretrain_settings import MINUTES, PretrainConfig
from mobius_seg.train.record import pretrained_sources, read_record
from mobius_seg.train.settings import BACKBONE_FILE, PRETRAINING_FILE

_PARTS = ("backbone.", "name_map.", "text_projection.", "text_mean")
_LOG_STEPS = 50


@dataclass(frozen=True)
class Stage:
    """What is shown from a share of the run on.

    Attributes:
        start: share of the run, 0..1.
        size: side of the pictures over the configured one.
        sides: longest side of an object over the picture's side.
        objects: fewest and most objects in a picture.
        close: share of close-ups, whose objects are fewer and larger.
    """

    start: float
    size: float
    sides: tuple[float, float]
    objects: tuple[int, int]
    close: float = 0.0


STAGES = (
    Stage(0.0, 0.5, (0.25, 0.95), (1, 2)),
    Stage(0.45, 0.75, (0.15, 0.75), (2, 5)),
    Stage(0.7, 1.0, (0.07, 0.8), (2, 12), 0.2),
)


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """A batch of pictures with T objects in all.

    Attributes:
        images_B3SS: uint8 RGB.
        cover_TN: float 0..1, part of each cell of the name map that an object shows in.
        picture_T: int64, which picture an object lies in.
        rows_T: int64, row of its name among the base names.
    """

    images_B3SS: Tensor
    cover_TN: Tensor
    picture_T: Tensor
    rows_T: Tensor


class CrowdBatches(Dataset[Crowd]):
    """The batch of every step, made from (seed, step) alone.

    Args:
        pack: an open pack.
        config: sizes and seed.
        stage: what is shown.
        split: whose cut-outs are shown.
        name_stride: of the network's name map; None for the preset's.
    """

    def __init__(
        self,
        pack: Pack,
        config: PretrainConfig,
        stage: Stage,
        split: str = "train",
        name_stride: int | None = None,
    ) -> None:
        """See the class."""
        self.seed = config.seed
        self.stride = name_stride or get_preset(config.preset).name_stride
        size = max(32, round(config.size * stage.size / 32) * 32)
        self.batch = round(config.batch_size * (config.size / size) ** 2)
        self.composer = SceneComposer(
            pack,
            split,
            size,
            side_range=stage.sides,
            objects=stage.objects,
            close_ratio=stage.close,
        )
        self._row = {name: row for row, name in enumerate(_base(pack))}

    def __getitem__(self, step: int) -> Crowd:
        """The batch of a step."""
        images, covers, pictures, rows = [], [], [], []
        for i in range(self.batch):
            scene = self.composer.compose(scene_rng(self.seed, step * self.batch + i))
            masks_M1HW = torch.from_numpy(scene.masks).float()[:, None]
            images.append(scene.image)
            covers.append(F.avg_pool2d(masks_M1HW, self.stride).flatten(1))
            pictures += [i] * len(scene.masks)
            rows += [self._row[int(name)] for name in scene.name_ids]
        return Crowd(
            images_B3SS=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
            cover_TN=torch.cat(covers),
            picture_T=torch.tensor(pictures),
            rows_T=torch.tensor(rows),
        )

    def __len__(self) -> int:
        """Nominal; steps are drawn by number."""
        return 2**31


def pretrain(config: PretrainConfig) -> Path:
    """Train the backbone and the name map of a preset to name objects whose masks are given.

    Args:
        config: the run.

    Returns:
        ``config.out / "backbone.safetensors"``, for ``mobius-seg train --backbone``; with
        ``config.weights`` the model's folder, for ``mobius-seg train --weights``.

    Raises:
        InputError: the pack, the preset or the weights cannot be used, or ``config.out`` holds a
            model already that would be replaced.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    if not get_preset(config.preset).name_map:
        raise InputError(f"{config.preset} has no name map to pretrain; allowed: mobius-*")
    previous = None
    if config.weights is not None:
        if (config.out / RUN_MODEL).exists():
            raise InputError(f"{config.out}: holds a model already; choose another --out")
        previous = read_record(find_folder(config.weights), TRAINING_FILE)
    make_folder(config.out)
    pack = Pack.open(config.pack)
    names_KD = torch.from_numpy(np.asarray(pack.name_embeddings, dtype=np.float32))[_base(pack)]
    network, start = _start(config, names_KD)
    drawn = start == "random" and config.weights is None
    network.backbone.freeze_norm = not drawn
    network.backbone.freeze(0 if drawn else config.freeze_stride)
    runner = _Runner(config, network, names_KD)
    stride = network.config.name_stride
    stages = STAGES if config.weights is None else STAGES[-1:]
    ends = [stage.start for stage in stages[1:]] + [1.0]
    for stage, end in zip(stages, ends, strict=True):
        runner.go(CrowdBatches(pack, config, stage, name_stride=stride), end)
    judged = CrowdBatches(pack, config, STAGES[-1], "calib", stride)
    record = {
        "settings": {k: v for k, v in dataclasses.asdict(config).items() if k not in _PLACES},
        "start": start,
        "steps": runner.step,
        "images": runner.images,
        "objects": runner.objects,
        "hours": round((time.monotonic() - runner.begun) / 3600, 3),
        "device": runner.described,
        "precision": "bf16" if runner.half else "no",
        "seed": config.seed,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "calib_top1": runner.accuracy([judged[i] for i in range(8)]),
        "assets": [*(dict(source) for source in pack.meta.sources), *pretrained_sources(start)],
        "curve": runner.log,
    }
    if config.weights is not None:
        record["previous"] = previous
        save_model(network, config.out / RUN_MODEL, training=record)
        return config.out / RUN_MODEL
    return _write(config.out, network, record)


def _start(config: PretrainConfig, names_KD: Tensor) -> tuple[Mobius, str]:
    """The network that the run begins with, and a word for where its weights came from."""
    if config.weights is not None:
        network = load_model(config.weights)
        if network.config.name != config.preset:
            raise InputError(f"{config.weights}: holds {network.config.name}, not {config.preset}")
        if network.name_map is None:
            raise InputError(f"{config.weights}: has no name map to go on with")
        return network, str(config.weights.name)
    model = get_preset(config.preset)
    network = Mobius(model)
    start = "random"
    if config.pretrained:
        start = load_imagenet(network.backbone, model.backbone, config.pack.parent) or start
    network.fit_text(names_KD)
    return network, start


def load_pretrained(network: Mobius, file: Path, partly: bool = False) -> list[str]:
    """Start a network's backbone, name map and text projection from what :func:`pretrain` wrote.

    Args:
        network: what is filled.
        file: its ``backbone.safetensors``.
        partly: leave out the name map or the text projection where it does not fit the network.

    Returns:
        The parts left out.

    Raises:
        InputError: the file cannot be read, or belongs to another preset.
    """
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: no backbone could be read here: {error}") from None
    if bad := [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise InputError(f"{file}: tensor {bad[0]!r} holds values that are not finite")
    own = _pretrained_part(network)
    left_out = []
    for part in (("backbone.",), ("name_map.",), ("text_projection.", "text_mean")):
        stored = {k: v for k, v in tensors.items() if k.startswith(part)}
        wanted = {k: v.shape for k, v in own.items() if k.startswith(part)}
        if {k: v.shape for k, v in stored.items()} == wanted:
            network.load_state_dict(stored, strict=False)
        elif partly and part != ("backbone.",):
            left_out.append(part[0].rstrip("."))
        else:
            raise InputError(f"{file}: belongs to another preset than {network.config.name}")
    return left_out


_PLACES = ("out", "pack", "weights")


def _base(pack: Pack) -> list[int]:
    """Rows of the base names in the pack."""
    return [row for row, side in enumerate(pack.name_split) if side == "base"]


def _pretrained_part(network: Mobius) -> dict[str, Tensor]:
    return {k: v for k, v in network.state_dict().items() if k.startswith(_PARTS)}


def _write(out: Path, network: Mobius, record: dict[str, Any]) -> Path:
    """The trained part and the record beside it."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in _pretrained_part(network).items()}
    with atomic_path(out / BACKBONE_FILE) as temporary:
        save_file(tensors, temporary)
    write_text(out / PRETRAINING_FILE, json.dumps(record, indent=2) + "\n")
    return out / BACKBONE_FILE


class _Runner:
    """The loop and what it holds."""

    def __init__(self, config: PretrainConfig, network: Mobius, names_KD: Tensor) -> None:
        self.config = config
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = channels_last(network.to(self.device))
        fold_norms(self.network.backbone)
        self.half = choose_precision(config.precision) == "bf16"
        threads = f"CPU, {torch.get_num_threads()} threads"
        self.described = torch.cuda.get_device_name() if self.device.type == "cuda" else threads
        with torch.no_grad():
            self.vocabulary_KC = self.network.project_names(names_KD.to(self.device))
        self.log_scale = nn.Parameter(torch.tensor(30.0, device=self.device).log())
        body = [p for p in network.backbone.parameters() if p.requires_grad]
        assert network.name_map is not None  # checked before
        self.name_map = network.name_map
        head = [*self.name_map.parameters(), self.log_scale]
        self.optimizer = torch.optim.AdamW(
            [{"params": body, "peak_lr": config.lr}, {"params": head, "peak_lr": 3 * config.lr}],
            lr=config.lr,
            weight_decay=0.02,
        )
        self.step, self.images, self.objects = 0, 0, 0
        self.begun = time.monotonic()
        self.log: list[dict[str, float]] = []

    def go(self, batches: CrowdBatches, end: float) -> None:
        """Take steps until a share of the run is over."""
        loader = DataLoader(
            batches,
            batch_size=None,
            sampler=Steps(self.step, 2**31),
            num_workers=1,
            prefetch_factor=4,
        )
        self.network.train()
        seen: list[tuple[float, float]] = []
        for batch in loader:
            if self._share() >= end:
                break
            self._set_rate(self._share())
            seen.append(self._train(batch))
            self.step, self.images = self.step + 1, self.images + len(batch.images_B3SS)
            self.objects += len(batch.rows_T)
            if self.step % _LOG_STEPS == 0:
                loss, accuracy = np.mean(seen, 0)
                self._report(float(loss), float(accuracy))
                seen = []

    def _share(self) -> float:
        """Share of the run that is done."""
        if self.config.steps is not None:
            return self.step / self.config.steps
        minutes = MINUTES if self.config.minutes is None else self.config.minutes
        return (time.monotonic() - self.begun) / (minutes * 60)

    def _set_rate(self, share: float) -> None:
        tail = max(0.0, (share - 0.45) / 0.55)  # flat, then a cosine to 1 %
        factor = min(1.0, (self.step + 1) / 100) * (0.01 + 0.495 * (1 + math.cos(math.pi * tail)))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def _cosines(self, batch: Crowd) -> Tensor:
        """Cosine of each object to each name: [T, K]."""
        network = self.network
        mean, std = network.get_buffer("image_mean"), network.get_buffer("image_std")
        images = (batch.images_B3SS.to(self.device).float() / 255 - mean) / std
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            maps = network.backbone(images.contiguous(memory_format=torch.channels_last))
            names_BNC = self.name_map(maps[2], maps[3]).float().flatten(2).transpose(1, 2)
        of_T = batch.picture_T.to(self.device)
        sum_TC = torch.einsum("tn,tnc->tc", batch.cover_TN.to(self.device), names_BNC[of_T])
        cosine_TK: Tensor = F.normalize(sum_TC, dim=-1) @ self.vocabulary_KC.T
        return cosine_TK

    def _train(self, batch: Crowd) -> tuple[float, float]:
        """One step; its cross-entropy and top-1 accuracy."""
        cosine_TK = self._cosines(batch)
        rows_T = batch.rows_T.to(self.device)
        contest = F.cross_entropy(self.log_scale.exp() * cosine_TK, rows_T, label_smoothing=0.05)
        distance_T = 1 - cosine_TK.gather(1, rows_T[:, None])
        loss = contest + LossConfig().pull * distance_T.mean()  # as regions.region_loss
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.backbone.parameters(), 2.0)
        if not bool(torch.isfinite(loss)):
            raise InputError(f"the loss was not finite in step {self.step}; lower --lr")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(contest.detach()), float((cosine_TK.argmax(1) == rows_T).float().mean())

    @torch.no_grad()
    def accuracy(self, batches: Sequence[Crowd]) -> float:
        """Top-1 accuracy over the objects of some batches."""
        self.network.eval()
        right = [self._cosines(batch).argmax(1).cpu() == batch.rows_T for batch in batches]
        return round(float(torch.cat(right).float().mean()), 4)

    def _report(self, loss: float, accuracy: float) -> None:
        minutes = (time.monotonic() - self.begun) / 60
        entry = {"minutes": minutes, "objects": self.objects, "loss": loss, "top1": accuracy}
        self.log.append({key: round(value, 4) for key, value in entry.items()})
        Console(stderr=True).print(
            f"{minutes:.1f} min  {self.objects} objects  loss {loss:.2f}  top-1 {accuracy:.2f}"
        )
