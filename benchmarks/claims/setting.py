"""The small setting that every training of the claims shares.

* Model: ``mobius-n`` (or a variant of it) at 160 x 160 pixels.
* Names: the 150 base names that the most different drawings and models show. They are the whole
  vocabulary of training and measuring, since everything reads a pack cut down to them.
* Data: composed scenes of that pack's train cut-outs, 70 % and more asked by names, the rest for
  everything; step i of a seed is the same batch in every variant. No expressions.
* Length: the same number of steps and of images for all variants of a claim, and a schedule of
  rates that every run completes. Two processes with one thread each use two cores best: 7 to 9
  images a second each were measured for mobius-n at this size, 5 for its multiscale variant, so
  that a pair of runs takes 10 to 17 minutes, measuring included.
* Held out: ``calib`` scenes of the calib cut-outs, for maps and floors; ``val`` scenes of the val
  cut-outs, for every figure. Both show the same names at the size of the training, on backgrounds
  and from drawings and views that training never saw, with seeds of their own.
* Start: nothing is trained from nothing, since a baseline under 30 class-agnostic AP50 says
  nothing. What of the shipped weights a claim starts from is stated by its script, and is the same
  for all of its variants.

``--smoke`` shrinks everything to seconds, to see that the scripts run; its figures mean nothing.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from mobius_seg.checkpoint import find_folder, read_config, weights_digest
from mobius_seg.config import ModelConfig
from mobius_seg.data.compose import write_dataset
from mobius_seg.data.pack import Pack
from mobius_seg.data.subset import frequent_names, restrict_pack
from mobius_seg.loss_config import LossConfig
from mobius_seg.text_features import TextFeatures

LEAST_AP50 = 0.30
"""Class-agnostic AP50 that the baseline must reach for the setting to say anything."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Numbers of the setting.

    Attributes:
        preset: model that the variants are made of.
        names: how many names.
        size: side of pictures in training and measuring, pixels.
        steps: of one training.
        batch_size: images a step.
        calib: scenes that maps and floors are fitted on.
        val: scenes that are measured on.
        error_calib: scenes that the maps are fitted on where calibration errors are measured.
        error_val: scenes that these errors are measured on: the errors of 300 are mostly noise.
        seeds: seed of each variant's start and data; and of the calib and val scenes.
        scene_seeds: seeds of calib and val scenes.
        train: further fields of ``TrainConfig``. The loss is that which every claim but the one
            about losses was run with.
        images_per_second: assumed of a training until one has been timed.
        measure_seconds: assumed of measuring one model.
    """

    preset: str = "mobius-n"
    names: int = 150
    size: int = 160
    steps: int = 600
    batch_size: int = 8
    calib: int = 300
    val: int = 300
    error_calib: int = 600
    error_val: int = 1000
    seeds: tuple[int, ...] = (0, 1, 2)
    scene_seeds: tuple[int, int] = (4000, 5000)
    train: tuple[tuple[str, Any], ...] = (
        ("lr", 6e-4),
        ("backbone_lr", 1.5e-4),
        ("loss", LossConfig(class_loss="mal", synonyms=True)),
        ("warmup", 100),
        ("flat", 0.5),
        ("ema", 0.998),
        ("negatives", (20, 100)),
        ("expression_ratio", 0.0),
        ("agnostic_ratio", 0.15),
        ("snapshot_minutes", 0),
        ("checkpoint_minutes", 3.0),
    )
    images_per_second: float = 8.0
    measure_seconds: float = 60.0


FULL = Setting()
SMOKE = Setting(
    preset="mobius-test",
    names=6,
    size=64,
    steps=4,
    batch_size=2,
    calib=4,
    val=4,
    error_calib=4,
    error_val=4,
    seeds=(0,),
    train=(
        ("lr", 1e-5),
        ("backbone_lr", 1e-5),
        ("warmup", 2),
        ("negatives", (2, 6)),
        ("expression_ratio", 0.0),
        ("freeze_stride", 0),
        ("freeze_norm", False),
        ("snapshot_minutes", 0),
        ("log_steps", 2),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """A composed data set on disk.

    Attributes:
        annotations: COCO file.
        images: folder of its pictures.
        info: what it was made of.
    """

    annotations: Path
    images: Path
    info: dict[str, Any]


class PackEncoder:
    """Text vectors of a pack's names, so that measuring needs no text encoder.

    Attributes:
        identity: that of the encoder which made the vectors.
        dim: numbers of a vector.
    """

    def __init__(self, pack: Pack, identity: str) -> None:
        self.identity, self.dim = identity, pack.name_embeddings.shape[1]
        vectors = torch.from_numpy(np.asarray(pack.name_embeddings, np.float32))
        self._vectors = dict(zip(pack.names, vectors, strict=True))

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Vectors of names of the pack, each as its only token."""
        found = [self._vectors[text] for text in texts]
        return TextFeatures.stack(found, [vector[None] for vector in found], self.dim)


class Bench:
    """The data of a setting, made when first asked for.

    Args:
        setting: its numbers.
        pack: the full pack.
        runs: folder of everything that is made.
        start: folder of weights, or shipped model, that runs start from.
    """

    def __init__(self, setting: Setting, pack: Path, runs: Path, start: str) -> None:
        self.setting, self.runs, self.full_pack = setting, runs, pack
        self.start = find_folder(start)

    @cached_property
    def pack(self) -> Path:
        """The pack of the setting's names."""
        digest = _digest(self.full_pack)
        path = self.runs / f"pack-{self.setting.names}-{digest[:8]}.safetensors"
        with self._alone():
            if not path.exists():
                names = frequent_names(Pack.open(self.full_pack), self.setting.names)
                restrict_pack(self.full_pack, names, path)
        return path

    def _alone(self) -> FileLock:
        """Held while shared data is made: other processes wait for it, and then find it."""
        self.runs.mkdir(parents=True, exist_ok=True)
        return FileLock(self.runs / "data.lock")

    @cached_property
    def opened(self) -> Pack:
        """The pack, opened."""
        return Pack.open(self.pack)

    @cached_property
    def start_digest(self) -> str:
        """SHA-256 of the weights that runs start from."""
        return weights_digest(self.start)

    @cached_property
    def config(self) -> ModelConfig:
        """The model that variants are made of: that of the start, at the setting's size.

        Every token is compared with the names: pictures this small have hardly more tokens than
        candidates.
        """
        base = read_config(self.start)
        stated = {"expected_params": 0, "expected_gmac": 0.0}  # of the preset, not of a variant
        return replace(base, input_size=self.setting.size, candidates=0, **stated)

    @cached_property
    def name_vectors(self) -> torch.Tensor:
        """Text vectors of the setting's names."""
        return torch.from_numpy(np.asarray(self.opened.name_embeddings, np.float32))

    def encoder(self, config: ModelConfig) -> PackEncoder:
        """The encoder to measure a model with."""
        return PackEncoder(self.opened, config.text_encoder)

    def scenes(self, split: str) -> Scenes:
        """The held-out scenes.

        Args:
            split: "calib" or "val", or "error-calib" or "error-val".
        """
        setting = self.setting
        calib, val = setting.scene_seeds
        kind, count, seed = {
            "calib": ("calib", setting.calib, calib),
            "val": ("val-base", setting.val, val),
            "error-calib": ("calib", setting.error_calib, calib),
            "error-val": ("val-base", setting.error_val, val),
        }[split]
        name = f"{kind}-{count}-{setting.size}-{seed}-{self.opened.digest[:8]}"
        folder = self.runs / "scenes" / name
        pack = self.pack
        with self._alone():
            if not (folder / "annotations.json").exists():
                write_dataset(pack, kind, count, setting.size, seed, folder)
        info = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))["info"]
        return Scenes(annotations=folder / "annotations.json", images=folder / "images", info=info)

    def facts(self) -> dict[str, Any]:
        """What is stated with every result."""
        setting = self.setting
        return {
            "model": self.config.name,
            "size": setting.size,
            "names": setting.names,
            "steps": setting.steps,
            "batch": setting.batch_size,
            "images_a_run": setting.steps * setting.batch_size,
            "calib_scenes": setting.calib,
            "val_scenes": setting.val,
            "error_calib_scenes": setting.error_calib,
            "error_val_scenes": setting.error_val,
            "scene_seeds": list(setting.scene_seeds),
            "pack_sha256": self.opened.digest,
            "start": self.start.name,
            "start_sha256": self.start_digest,
        }


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
