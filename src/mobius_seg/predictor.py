"""Pictures in, instances out: the class that users hold.

Shapes: B images of a batch, K names, T sub-words, D text width, H and W pixels.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mobius_seg.checkpoint import load_model
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.imageio import ImageInput, load_image
from mobius_seg.instances import Instances
from mobius_seg.model import Mobius
from mobius_seg.postprocess import boxes_to_original, encode_masks, select
from mobius_seg.preprocess import Frame, make_frame, pad_and_stack, resize
from mobius_seg.prompts import Prompt, build_batch, read_prompts
from mobius_seg.text import TextEncoder, default_encoder
from mobius_seg.types import ModelOutput

Names: TypeAlias = Sequence[str] | Sequence[Sequence[str]]

SIZE_LIMITS = (32, 8192)


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    *,
    text_encoder: TextEncoder | None = None,
    random_weights: bool = False,
    seed: int = 0,
) -> "Predictor":
    """Load a model for prediction.

    Args:
        name: a model whose weights ship with the package (``mobius_seg.list_models()``), or a
            folder with ``config.json`` and ``model.safetensors``, for example one that training
            wrote. A shipped name wins over a folder of that name: write ``./name`` for the folder.
        device: where to run; None for the GPU if there is one, else the CPU.
        text_encoder: encodes names and expressions; None for the default.
        random_weights: build the preset ``name`` with random weights, for tests and measurements.
        seed: of the random weights.

    Raises:
        InputError: the model is unknown, its files cannot be used, or the device is not there.
    """
    network = load_model(name, random_weights=random_weights, seed=seed)
    return Predictor(network, text_encoder=text_encoder, device=device)


class Predictor:
    """Finds instances in pictures.

    Attributes:
        network: the :class:`Mobius` network, in evaluation mode.
        config: its :class:`ModelConfig`.
        text_encoder: encodes names and expressions.
        device: where the network runs.
    """

    def __init__(
        self,
        network: Mobius,
        *,
        text_encoder: TextEncoder | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        """Wrap a network.

        Args:
            network: put on ``device`` and into evaluation mode.
            text_encoder: None for :func:`mobius_seg.text.default_encoder`.
            device: None for the GPU if there is one, else the CPU.

        Raises:
            InputError: the device is not there, or the encoder's vectors do not fit the network.
        """
        self.device = _device(device)
        self.network = network.eval().to(self.device)
        self.config: ModelConfig = network.config
        self.text_encoder = text_encoder if text_encoder is not None else default_encoder()
        if self.text_encoder.dim != self.config.text_dim:
            raise InputError(
                f"text encoder {self.text_encoder.identity!r} gives {self.text_encoder.dim} values"
                f" a text, but model {self.config.name!r} reads {self.config.text_dim}"
            )
        if self.text_encoder.identity != self.config.text_encoder:
            warnings.warn(
                f"model {self.config.name!r} was made with text encoder"
                f" {self.config.text_encoder!r}, not {self.text_encoder.identity!r}",
                stacklevel=2,
            )

    def __repr__(self) -> str:
        """Model name and device."""
        return f"Predictor({self.config.name!r}, device={str(self.device)!r})"

    @overload
    def predict(
        self,
        images: ImageInput,
        *,
        names: Sequence[str] | None = None,
        expression: str | None = None,
        size: int | None = None,
        threshold: float = 0.3,
        max_instances: int = 100,
        batch_size: int = 8,
    ) -> Instances: ...

    @overload
    def predict(
        self,
        images: list[Any] | tuple[Any, ...],
        *,
        names: Names | None = None,
        expression: str | Sequence[str] | None = None,
        size: int | None = None,
        threshold: float = 0.3,
        max_instances: int = 100,
        batch_size: int = 8,
    ) -> list[Instances]: ...

    def predict(
        self,
        images: "ImageInput | list[Any] | tuple[Any, ...]",
        *,
        names: Names | None = None,
        expression: str | Sequence[str] | None = None,
        size: int | None = None,
        threshold: float = 0.3,
        max_instances: int = 100,
        batch_size: int = 8,
    ) -> Instances | list[Instances]:
        """Find the instances that the prompt asks for.

        Without names and expression every object is asked for, under the name "object".

        Args:
            images: one picture (path, PIL, array, tensor, bytes; see
                :func:`mobius_seg.imageio.load_image`), or a list of them, of any sizes.
            names: what to look for. No names: no instances. A name given twice counts once. With a
                list of pictures also one list of names for each.
            expression: a phrase that points something out, such as "the cup on the left". With a
                list of pictures also one for each.
            size: longest side in pixels that pictures are resized to; None for the model's own.
            threshold: lowest score that is returned, 0 to 1.
            max_instances: how many are returned at most, the best ones.
            batch_size: how many pictures run at once.

        Returns:
            One :class:`Instances` for one picture, a list of them for a list. Each is what the
            picture alone would give, within rounding.

        Raises:
            InputError: a picture or an argument cannot be used; the message says which and why.
        """
        many = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
        sources: list[Any] = list(images) if many else [images]  # type: ignore[arg-type]
        prompts = read_prompts(names, expression, len(sources), many)
        size = self.config.input_size if size is None else size
        _check_arguments(size, threshold, max_instances, batch_size)
        results: list[Instances | None] = [None] * len(sources)
        waiting: dict[tuple[int, int], list[_Job]] = {}
        for index, (source, prompt) in enumerate(zip(sources, prompts, strict=True)):
            job = _read_job(source, index, prompt, size, f"image {index}" if many else None)
            if prompt.asks_nothing:
                results[index] = Instances.empty(job.frame.original, source)
                continue
            batch = waiting.setdefault(job.frame.padded, [])
            batch.append(job)
            if len(batch) == batch_size:
                self._run(waiting.pop(job.frame.padded), results, threshold, max_instances)
        for batch in waiting.values():
            self._run(batch, results, threshold, max_instances)
        done = [result for result in results if result is not None]
        assert len(done) == len(sources)
        return done if many else done[0]

    @torch.inference_mode()
    def _run(
        self,
        jobs: "list[_Job]",
        results: list[Instances | None],
        threshold: float,
        max_instances: int,
    ) -> None:
        """Predict pictures of one padded size and fill in their results."""
        images_B3HW = pad_and_stack([job.pixels for job in jobs], jobs[0].frame).to(self.device)
        subwords = self.config.fuse_subwords
        asked = [job.prompt for job in jobs]
        prompt = build_batch(asked, self.text_encoder, subwords).to(self.device)
        output = self.network(images_B3HW, prompt)
        for row, job in enumerate(jobs):
            results[job.index] = self._read(output, row, job, threshold, max_instances)

    def _read(
        self, output: ModelOutput, row: int, job: "_Job", threshold: float, max_instances: int
    ) -> Instances:
        """Instances of one picture of a batch."""
        alpha, columns = self.config.objectness_weight, len(job.prompt.texts)
        chosen = select(output, row, columns, alpha, threshold, max_instances)
        found = encode_masks(output, row, chosen.queries_N, job.frame)
        kept = [i for i, rle in enumerate(found) if rle is not None]
        rles = [rle for rle in found if rle is not None]
        boxes_N4 = output.layers[-1].boxes_BQ4[row].cpu()[chosen.queries_N[kept]]
        column_N = chosen.columns_N[kept].tolist()
        labels, positions = job.prompt.labels, job.prompt.positions
        return Instances(
            image_size=job.frame.original,
            rles=rles,
            boxes_xyxy=_real_boxes(boxes_to_original(boxes_N4, job.frame), rles),
            scores=chosen.scores_N[kept].numpy().astype(np.float32),
            names=[labels[column] for column in column_N],
            name_ids=np.array([positions[column] for column in column_N], np.int64),
            source=job.source,
        )


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One picture on its way through the network."""

    index: int
    source: Any
    prompt: Prompt
    frame: Frame
    pixels: NDArray[np.uint8]


def _read_job(source: Any, index: int, prompt: Prompt, size: int, where: str | None) -> _Job:
    """Read and resize a picture; only the resized pixels are kept."""
    if where is not None and isinstance(source, str | Path):
        where = f"{where} ({source})"
    image = load_image(source, where)
    frame = make_frame(image.shape[0], image.shape[1], size)
    pixels = resize(image, frame)
    return _Job(index=index, source=source, prompt=prompt, frame=frame, pixels=pixels)


def _real_boxes(boxes_xyxy: NDArray[np.float32], rles: list[dict[str, Any]]) -> NDArray[np.float32]:
    """The boxes [N, 4], those without an area (wholly outside the picture) read off the masks."""
    flat = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2] <= 0).any(axis=1)
    for i in np.flatnonzero(flat | ~np.isfinite(boxes_xyxy).all(axis=1)):
        x, y, width, height = coco_mask.toBbox(rles[i])
        boxes_xyxy[i] = (x, y, x + width, y + height)
    return boxes_xyxy


def _check_arguments(size: object, threshold: object, max_instances: object, batch: object) -> None:
    """Check the numbers that predict takes."""
    low, high = SIZE_LIMITS
    if not _is_whole(size) or not low <= size <= high:  # type: ignore[operator]
        raise InputError(f"size is {size!r}; allowed: whole numbers from {low} to {high}")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number):
        raise InputError(f"threshold is {threshold!r}; allowed: 0 to 1")
    if not 0.0 <= float(threshold) <= 1.0:
        raise InputError(f"threshold is {threshold!r}; allowed: 0 to 1")
    for field, value in (("max_instances", max_instances), ("batch_size", batch)):
        if not _is_whole(value) or value < 1:  # type: ignore[operator]
            raise InputError(f"{field} is {value!r}; allowed: whole numbers from 1")


def _is_whole(value: object) -> bool:
    """A whole number, which True is not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _device(device: str | torch.device | None) -> torch.device:
    """The device to run on.

    Raises:
        InputError: it does not exist here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
        if chosen.type == "meta":
            raise RuntimeError("it computes nothing")
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        reason = str(error).split("\n")[0].split(". ")[0][:200]
        raise InputError(f"device {str(device)!r} cannot be used: {reason}") from None
    return chosen
