"""Pictures in, instances out: the class that users hold.

Shapes: B images of a batch, K names, T sub-words, D text width, H and W pixels.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, overload

import torch
from torch import Tensor

from mobius_seg.calibration_file import NAMES, Calibration, fitted
from mobius_seg.checkpoint import load_calibration, load_model, load_operating_points
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.imageio import ImageInput
from mobius_seg.instances import Instances
from mobius_seg.jobs import Job, Limits, read_instances, read_job, read_jobs, read_limits
from mobius_seg.model import Mobius
from mobius_seg.operating_points import OperatingPoints
from mobius_seg.planner import Planner, Request, prompt_shape
from mobius_seg.predict_arguments import choose_device
from mobius_seg.preprocess import pad_and_stack
from mobius_seg.prompts import Prompt, read_prompts
from mobius_seg.pruned_decoder import PrunedOutput, decode, image_output, run_pruned
from mobius_seg.pruning import PruningPolicy
from mobius_seg.recognition import Recogniser, load_recogniser, wants_recognition
from mobius_seg.static_points import static_points
from mobius_seg.text import TextEncoder, default_encoder
from mobius_seg.types import LayerOutput, TextPrompt
from mobius_seg.vocabulary import LargeVocabulary

Names: TypeAlias = Sequence[str] | Sequence[Sequence[str]]


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
    if not isinstance(name, str | Path):
        raise InputError(
            f"load() needs a model's name or folder, got {type(name).__name__}: {name!r}"
        )
    network = load_model(name, random_weights=random_weights, seed=seed)
    return Predictor(
        network,
        text_encoder=text_encoder,
        device=device,
        calibration=None if random_weights else load_calibration(name),
        operating_points=None if random_weights else load_operating_points(name),
    )


class Predictor:
    """Finds instances in pictures.

    Attributes:
        network: the :class:`Mobius` network, in evaluation mode.
        config: its :class:`ModelConfig`.
        text_encoder: encodes names and expressions.
        device: where the network runs.
        calibration: maps and precision of its scores, None where ``mobius-seg calibrate`` has not
            fitted any.
        planner: solves budgets; holds the model's operating points and measured times.
        recogniser: the second opinion of ``recognise``; None until it is first asked for.
        vocabulary: remembers large prompts; with ``vocabulary.kept = None`` no name is left out.
    """

    def __init__(
        self,
        network: Mobius,
        *,
        text_encoder: TextEncoder | None = None,
        device: str | torch.device | None = None,
        calibration: Calibration | None = None,
        operating_points: OperatingPoints | None = None,
    ) -> None:
        """Wrap a network.

        Args:
            network: put on ``device`` and into evaluation mode.
            text_encoder: None for :func:`mobius_seg.text.default_encoder`.
            device: None for the GPU if there is one, else the CPU.
            calibration: of this network.
            operating_points: tuned for these weights; None for static ones (static_points.py).

        Raises:
            InputError: the device is not there, or the encoder's vectors, the calibration or the
                points do not fit the network.
        """
        self.device = choose_device(device)
        self.network = network.eval().to(self.device)
        self.config: ModelConfig = network.config
        if calibration is not None:
            calibration.check_stages(self.config.decoder_layers + 1, "calibration")
        if operating_points is not None:
            operating_points.check(self.config, "operating_points")
        self.calibration = calibration
        self.planner = Planner(self.network, operating_points or static_points(self.config))
        self.text_encoder = text_encoder if text_encoder is not None else default_encoder()
        self.vocabulary = LargeVocabulary(self.network)
        self.recogniser: Recogniser | None = None
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
        names_per_instance: int = 1,
        nms_iou: float | None = None,
        batch_size: int = 8,
        calibrated: bool = True,
        budget: str | None = None,
        operating_point: str | PruningPolicy | None = None,
        recognise: bool | None = None,
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
        names_per_instance: int = 1,
        nms_iou: float | None = None,
        batch_size: int = 8,
        calibrated: bool = True,
        budget: str | None = None,
        operating_point: str | PruningPolicy | None = None,
        recognise: bool | None = None,
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
        names_per_instance: int = 1,
        nms_iou: float | None = None,
        batch_size: int = 8,
        calibrated: bool = True,
        budget: str | None = None,
        operating_point: str | PruningPolicy | None = None,
        recognise: bool | None = None,
    ) -> Instances | list[Instances]:
        """Find the instances that the prompt asks for: every "object" without names and expression.

        Args:
            images: a picture (see :func:`mobius_seg.imageio.load_image`), or a list, of any sizes.
            names: what to look for. No names: no instances. A name given twice counts once. With a
                list of pictures also one list of names for each.
            expression: a phrase that points something out, such as "the cup on the left". With a
                list of pictures also one for each.
            size: longest side in pixels that pictures are resized to; None for the model's own.
            threshold: lowest score that is returned, 0 to 1; a calibrated score where scores are.
            max_instances: how many are returned at most, the best ones.
            names_per_instance: best names that each comes under, one result a name, see
                ``Instances.instance_ids``; benchmarks rank pairs of an instance and a name.
            nms_iou: mask IoU of duplicates, the weaker goes; None for the model's own, 1 for none.
            batch_size: how many pictures run at once.
            calibrated: map scores to the quality to expect, where the model has been calibrated;
                False returns the network's own. Pruning reads mapped ones either way.
            budget: limit for each picture: ``"2.5gmac"``, ``"3layers"`` or ``"80ms"`` (time of the
                network, measured on this device when first asked for); None for none. With an
                operating point both hold, and recognising comes on top.
            operating_point: a tuned point (``full``, ``balanced``, ``fast``) or a policy; None for
                ``full``. Floors, tuned with names, are left out without them, with a warning.
            recognise: ask an ImageNet classifier about the names too (docs/recognition.md).

        Returns:
            One :class:`Instances` for one picture, a list of them for a list. Each is what the
            picture alone would give, within rounding, with a receipt of what was executed.

        Raises:
            InputError: a picture or an argument cannot be used; the message says which and why.
        """
        many = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
        sources: list[Any] = list(images) if many else [images]  # type: ignore[arg-type]
        prompts = read_prompts(names, expression, len(sources), many)
        size = self.config.input_size if size is None else size
        counts = (max_instances, batch_size, names_per_instance)
        scale = (self.calibration, calibrated)
        limits = read_limits(prompts, size, threshold, counts, scale, nms_iou)
        limits = self._second_opinion(limits, recognise, prompts)
        request = self.planner.request(budget, operating_point, _named(prompts))
        jobs = read_jobs(sources, prompts, size, many, limits.recogniser is not None)
        done = self._run_all(jobs, len(sources), limits, batch_size, request)
        return done if many else done[0]

    def _run_all(
        self,
        jobs: Iterator[Job],
        count: int,
        limits: Limits,
        batch_size: int,
        request: Request,
    ) -> list[Instances]:
        """Run pictures in batches of one padded size; results in their order."""
        results: list[Instances | None] = [None] * count
        waiting: dict[Any, list[Job]] = {}
        for job in jobs:
            if job.prompt.asks_nothing:
                results[job.index] = Instances.empty(job.frame.original, job.source)
                continue
            # What a budget buys depends on the prompt too.
            alike = job.frame.padded if request.budget is None else (job.frame.padded, job.prompt)
            batch = waiting.setdefault(alike, [])
            batch.append(job)
            if len(batch) == batch_size:
                self._run(waiting.pop(alike), results, limits, request)
        for batch in waiting.values():
            self._run(batch, results, limits, request)
        done = [result for result in results if result is not None]
        assert len(done) == count
        return done

    def stream(
        self,
        image: ImageInput,
        *,
        names: Sequence[str] | None = None,
        expression: str | None = None,
        size: int | None = None,
        threshold: float = 0.3,
        max_instances: int = 100,
        nms_iou: float | None = None,
        calibrated: bool = True,
        budget: str | None = None,
        operating_point: str | PruningPolicy | None = None,
        recognise: bool | None = None,
    ) -> Iterator[Instances]:
        """Find instances and refine them layer by layer: an answer at any time.

        The first result is read off the query selection, before any decoder layer; one more comes
        after each layer; the last equals that of :meth:`predict` with the same arguments. Whoever
        stops listening saves the layers left. A receipt leaves out earlier masks.

        Args:
            image: one picture; limits hold for the last result.
            names: as in :meth:`predict`.
            expression: what to point out.
            size: longest side in pixels.
            threshold: lowest score that is returned.
            max_instances: how many are returned at most.
            nms_iou: as in :meth:`predict`.
            calibrated: whether scores are mapped.
            budget: as in :meth:`predict`.
            operating_point: as in :meth:`predict`.
            recognise: refused: names would change with every layer; None and False are the same.

        Raises:
            InputError: the picture or an argument cannot be used.
        """
        if isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4:
            raise InputError("stream takes one picture; call it for each")
        if recognise not in (None, False):
            raise InputError("stream does not recognise; allowed: recognise=False, or predict")
        prompts = read_prompts(names, expression, 1, many=False)
        size = self.config.input_size if size is None else size
        counts = (max_instances, 1, 1)
        scale = (self.calibration, calibrated)
        limits = read_limits(prompts, size, threshold, counts, scale, nms_iou)
        request = self.planner.request(budget, operating_point, _named(prompts))
        job = read_job(image, 0, prompts[0], size, None)
        return self._stream(job, limits, request)

    def threshold_for(self, *, precision: float, mode: str = NAMES) -> float:
        """Score threshold of a wanted precision, as measured on the calibration set.

        Args:
            precision: share of the results that shall match an object of their name with an IoU of
                at least 0.5, above 0 to 1.
            mode: ``names``, or ``everything`` for prompts without names.

        Returns:
            The lowest ``threshold`` for :meth:`predict` that reached it.

        Raises:
            InputError: none did, or the model is not calibrated.
        """
        return fitted(self.calibration, self.config.name).table(mode).threshold_for(precision)

    def expected_precision(self, score: float, *, mode: str = NAMES) -> float:
        """Precision (at IoU 0.5) of what is found at or above a score, as measured on that set.

        Args:
            score: a calibrated score, 0 to 1; above all of that set's, its best results count.
            mode: ``names``, or ``everything`` for prompts without names.

        Raises:
            InputError: the score is not within 0 to 1, or the model is not calibrated.
        """
        return fitted(self.calibration, self.config.name).table(mode).expected_precision(score)

    def _second_opinion(self, limits: Limits, recognise: object, prompts: list[Prompt]) -> Limits:
        """The same limits with the recogniser, where a call asks for it."""
        if not wants_recognition(recognise, prompts):
            return limits
        self.recogniser = self.recogniser or load_recogniser(self.network, self.text_encoder)
        return replace(limits, recogniser=self.recogniser)

    @torch.inference_mode()
    def _stream(self, job: Job, limits: Limits, request: Request) -> Iterator[Instances]:
        """One picture, stage by stage."""
        if job.prompt.asks_nothing:
            yield Instances.empty(job.frame.original, job.source)
            return
        images_B3HW, prompt = self._inputs([job])
        policy = self.planner.policy(request, images_B3HW, prompt)
        known = self.vocabulary.knows(prompt)
        encoded = self.vocabulary.encode(images_B3HW, prompt)
        layers: list[LayerOutput] = []
        at, maps = limits.pruning_threshold, limits.pruning_maps
        steps = decode(self.network, encoded, policy, threshold=at, maps=maps)
        for (found,) in steps:
            layers.append(found.layer)
            output = PrunedOutput(image_output(encoded, 0, layers), found.index_Q, found.queries)
            shape = prompt_shape(images_B3HW, prompt)
            yield read_instances(self.config, output, job, limits, shape, known)

    @torch.inference_mode()
    def _run(
        self,
        jobs: list[Job],
        results: list[Instances | None],
        limits: Limits,
        request: Request,
    ) -> None:
        """Predict pictures of one padded size and fill in their results."""
        images_B3HW, prompt = self._inputs(jobs)
        policy = self.planner.policy(request, images_B3HW, prompt)
        known = self.vocabulary.knows(prompt)
        encoded = self.vocabulary.encode(images_B3HW, prompt)
        at, maps = limits.pruning_threshold, limits.pruning_maps
        outputs = run_pruned(self.network, encoded, policy, threshold=at, maps=maps)
        shape = prompt_shape(images_B3HW, prompt)
        for output, job in zip(outputs, jobs, strict=True):
            results[job.index] = read_instances(self.config, output, job, limits, shape, known)

    def _inputs(self, jobs: list[Job]) -> tuple[Tensor, TextPrompt]:
        """What the network takes, on its device."""
        images_B3HW = pad_and_stack([job.pixels for job in jobs], jobs[0].frame).to(self.device)
        asked = [job.prompt for job in jobs]
        return images_B3HW, self.vocabulary.prompt(asked, self.text_encoder, self.device)


def _named(prompts: Sequence[Prompt]) -> bool:
    """Whether every picture is asked for something by name."""
    return all(prompt.texts or prompt.asks_nothing for prompt in prompts)
