"""One picture on its way from the caller to the network and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mobius_seg.imageio import load_image
from mobius_seg.preprocess import Frame, make_frame, resize
from mobius_seg.prompts import Prompt
from mobius_seg.pruning import StageMaps


@dataclass(frozen=True)
class Limits:
    """Which instances are returned, by which scores.

    Attributes:
        threshold: lowest score.
        max_instances: how many at most.
        maps: calibrated confidence of each stage, which pruning reads too; None for the raw one.
    """

    threshold: float
    max_instances: int
    maps: StageMaps | None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture on its way through the network.

    Attributes:
        index: its place among the pictures of the call.
        source: what the caller gave.
        prompt: what is asked for in it.
        frame: its sizes.
        pixels: uint8 RGB, resized.
    """

    index: int
    source: Any
    prompt: Prompt
    frame: Frame
    pixels: NDArray[np.uint8]


def read_job(source: Any, index: int, prompt: Prompt, size: int, where: str | None) -> Job:
    """Read and resize a picture; only the resized pixels are kept."""
    if where is not None and isinstance(source, str | Path):
        where = f"{where} ({source})"
    image = load_image(source, where)
    frame = make_frame(image.shape[0], image.shape[1], size)
    pixels = resize(image, frame)
    return Job(index=index, source=source, prompt=prompt, frame=frame, pixels=pixels)


def real_boxes(boxes_xyxy: NDArray[np.float32], rles: list[dict[str, Any]]) -> NDArray[np.float32]:
    """The boxes [N, 4], those without an area (wholly outside the picture) read off the masks."""
    flat = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2] <= 0).any(axis=1)
    for i in np.flatnonzero(flat | ~np.isfinite(boxes_xyxy).all(axis=1)):
        x, y, width, height = coco_mask.toBbox(rles[i])
        boxes_xyxy[i] = (x, y, x + width, y + height)
    return boxes_xyxy
