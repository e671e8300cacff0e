"""Samples of any size made one size: for training on a user's own pictures."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mobius_seg.data.appearance import finish
from mobius_seg.data.dataset import PADDING
from mobius_seg.data.sample import Sample

_SCALE = (0.6, 1.6)
_FLIP = 0.5
_MIN_PIXELS = 2.0


class SizedSamples(Protocol):
    """A finite set of samples."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """One sample."""


class AugmentedSamples:
    """Samples scaled, moved, flipped and padded to a square; index i depends on (seed, i) alone.

    Every pass over the samples is a new permutation.

    Args:
        samples: at least one.
        size: side of the square in pixels.
        seed: of permutation and augmentation.
        agnostic_ratio: share of samples asked without names.
        photometric_ratio: share of samples that get what a camera adds (appearance.finish).
    """

    def __init__(
        self,
        samples: SizedSamples,
        size: int,
        seed: int = 0,
        agnostic_ratio: float = 0.0,
        photometric_ratio: float = 0.0,
    ) -> None:
        """See the class."""
        self.samples, self.size, self.seed = samples, size, seed
        self.agnostic_ratio, self.photometric_ratio = agnostic_ratio, photometric_ratio

    def __getitem__(self, index: int) -> Sample:
        """Augmented sample of an index >= 0."""
        count = len(self.samples)
        order = np.random.default_rng((self.seed, 1, index // count)).permutation(count)
        rng = np.random.default_rng((self.seed, 2, index))
        sample = self.samples[int(order[index % count])]
        placed = place(sample, self.size, rng)
        camera = np.random.default_rng((self.seed, 3, index))
        if camera.random() < self.photometric_ratio:
            image_HW3 = placed.image.permute(1, 2, 0).contiguous().numpy()
            taken = torch.from_numpy(finish(camera, image_HW3))
            placed = replace(placed, image=taken.permute(2, 0, 1).contiguous())
        if rng.random() < self.agnostic_ratio and placed.exhaustive:
            return Sample(
                image=placed.image, boxes_xyxy=placed.boxes_xyxy, masks=placed.masks, names=None
            )
        return placed


def place(sample: Sample, size: int, rng: np.random.Generator) -> Sample:
    """Scale a sample by a random factor and cut or pad it to a square.

    Scale jitter 0.6 to 1.6 of the size at which the picture just fits, and a horizontal flip with
    probability one half (not for samples with an expression: left would become right). Instances
    of which less than two pixels remain are dropped.

    Args:
        sample: any size.
        size: side of the square in pixels.
        rng: source of the augmentation.
    """
    height, width = sample.image.shape[1:]
    scale = size / max(height, width) * float(np.exp(rng.uniform(*np.log(_SCALE))))
    new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
    image = F.interpolate(
        sample.image[None].float(), (new_h, new_w), mode="bilinear", antialias=True
    )[0]
    left, top = (_offset(length, size, rng) for length in (new_w, new_h))
    flip = sample.expression is None and rng.random() < _FLIP
    canvas = _window(image.round().to(torch.uint8), top, left, size, PADDING, flip)
    shift = torch.tensor([left, top, left, top], dtype=torch.float32)
    factor = torch.tensor([new_w / width, new_h / height] * 2)
    boxes = (sample.boxes_xyxy * factor - shift).clamp(0, size)
    if flip:
        boxes = torch.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], 1)
    masks = None
    if sample.masks is not None:
        small = F.interpolate(sample.masks[None].float(), (new_h, new_w), mode="area")[0]
        masks = _window(small, top, left, size, 0, flip) >= 0.5
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= _MIN_PIXELS).all(1)
    if masks is not None:
        keep &= masks.flatten(1).any(1)
    kept = keep.nonzero()[:, 0].tolist()
    return replace(
        sample,
        image=canvas,
        boxes_xyxy=boxes[keep],
        masks=None if masks is None else masks[keep],
        names=None if sample.names is None else tuple(sample.names[i] for i in kept),
        referred=_renumber(sample.referred, kept),
    )


def _offset(length: int, size: int, rng: np.random.Generator) -> int:
    """Start of the window: anywhere inside a longer picture, 0 (pad after) for a shorter one."""
    return int(rng.integers(0, length - size + 1)) if length > size else 0


def _window(x_CHW: Tensor, top: int, left: int, size: int, fill: float, flip: bool) -> Tensor:
    """Cut [C, size, size] out of a map, padding at the bottom and right."""
    part = x_CHW[:, top : top + size, left : left + size]
    pad = (0, size - part.shape[2], 0, size - part.shape[1])
    out = F.pad(part, pad, value=fill)
    return out.flip(2) if flip else out


def _renumber(indices: Sequence[int], kept: list[int]) -> tuple[int, ...]:
    """Old instance numbers to new ones; dropped ones leave."""
    return tuple(kept.index(i) for i in indices if i in kept)
