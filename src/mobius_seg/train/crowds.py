"""Crowded pictures for naming alone: what each stage shows, and the batch of every step."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from mobius_seg.data.compose import scene_rng
from mobius_seg.data.pack import Pack
from mobius_seg.data.scenes import SceneComposer
from mobius_seg.presets import get_preset
from mobius_seg.train.pretrain_settings import PretrainConfig


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
        self._row = {name: row for row, name in enumerate(base_rows(pack))}

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


def base_rows(pack: Pack) -> list[int]:
    """Rows of the base names in the pack."""
    return [row for row, side in enumerate(pack.name_split) if side == "base"]
