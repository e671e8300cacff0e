"""Pictures in, instances out, from an exported folder: what :func:`mobius_seg.load` is for weights.

Shapes: B pictures of a batch, K names, D text width, Q queries.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mobius_seg.calibration_file import EVERYTHING, NAMES
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.export.chain import CHAIN, ChainSession, open_chain
from mobius_seg.export.session import Array, Session, open_session
from mobius_seg.export.spec import ExportSpec, GraphFile
from mobius_seg.instances import Instances
from mobius_seg.jobs import Job, Limits, build_instances, read_jobs
from mobius_seg.operating_points import OperatingPoints
from mobius_seg.posthoc import ScoreMaps
from mobius_seg.postprocess import QueryMasks
from mobius_seg.predict_arguments import check_arguments
from mobius_seg.preprocess import pad_and_stack
from mobius_seg.prompts import Prompt, read_prompts
from mobius_seg.text import default_encoder
from mobius_seg.text_cache import CachedEncoder
from mobius_seg.text_features import TextEncoder

_SHOWN_NAMES = 20  # baked names that an error message lists


def open_exported(
    folder: str | Path, threads: int | None = None, *, text_encoder: TextEncoder | None = None
) -> "ExportedModel":
    """Open what ``mobius-seg export`` wrote.

    Args:
        folder: with ``model.json`` and the graphs.
        threads: CPU threads; None for the runtime's own choice.
        text_encoder: encodes names for graphs that take text vectors; None for the default.

    Raises:
        InputError: the folder is none, or its runtime cannot be used.
    """
    spec, folder = ExportSpec.read(folder), Path(folder)
    sessions = open_sessions(spec, folder, threads)
    return ExportedModel(spec, sessions, text_encoder=text_encoder)


def open_sessions(spec: ExportSpec, folder: Path, threads: int | None) -> dict[str, Session]:
    """Every graph of a folder by its vocabulary, or its chain.

    Args:
        spec: what ``model.json`` says.
        folder: of the export.
        threads: CPU threads; None for the runtime's own choice.

    Raises:
        InputError: a file is missing or broken.
    """
    if CHAIN in spec.facts:
        return {spec.main.vocabulary: open_chain(folder, spec, threads)}
    return {
        graph.vocabulary: open_session(spec.runtime, folder, graph, threads)
        for graph in spec.graphs
    }


def open_for_commands(options: argparse.Namespace) -> "ExportedModel":
    """The folder of ``--model`` with ``--threads``, for commands that take weights as well.

    Raises:
        InputError: another device than the CPU is asked for, or as :func:`open_exported`.
    """
    if options.device not in (None, "cpu"):
        raise InputError(f"--device is {options.device!r}; exported graphs run on cpu here")
    return open_exported(options.model, options.threads)


class FixedPlanner:
    """Stands where a predictor's planner stands: there is one schedule, and nothing to solve.

    Args:
        spec: of the export.

    Attributes:
        points: their origin says which schedule the graph holds.
        default_point: the only one there is.
    """

    def __init__(self, spec: ExportSpec) -> None:
        """See the class."""
        self.default_point = spec.operating_point
        self.points = OperatingPoints({}, origin=spec.schedule["origin"])

    def request(self, budget: object, operating_point: object, named: bool = True) -> None:
        """See that nothing else is asked for than what the graph does.

        Raises:
            InputError: a budget or another operating point is.
        """
        if budget is not None:
            raise InputError("an exported graph has one schedule; give a budget to the weights")
        if operating_point not in (None, self.default_point):
            raise InputError(
                f"operating point {operating_point!r:.40} is not this export's, which is"
                f" {self.default_point!r}"
            )


class ExportedModel:
    """Finds instances in pictures with exported graphs.

    Attributes:
        spec: what ``model.json`` says.
        config: of the network; ``input_size`` is the longest side of the graph's input.
        device: always ``cpu``.
        planner: refuses what the graph does not do.
    """

    def __init__(
        self,
        spec: ExportSpec,
        sessions: dict[str, Session],
        *,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        """Wrap open graphs.

        Args:
            spec: their description.
            sessions: by vocabulary.
            text_encoder: None for :func:`mobius_seg.text.default_encoder`, when first needed.
        """
        self.spec = spec
        size = spec.config.input_size if spec.size is None else max(spec.size)
        self.config: ModelConfig = dataclasses.replace(spec.config, input_size=size)
        self.device = "cpu"
        self.planner = FixedPlanner(spec)
        self._sessions = sessions
        self._text_encoder = text_encoder

    def __repr__(self) -> str:
        """Model, runtime and operating point."""
        spec = self.spec
        return f"ExportedModel({spec.config.name!r}, {spec.runtime}, {spec.operating_point})"

    def run(self, image_B3HW: Array, text_KD: Array | None = None) -> dict[str, Array]:
        """Run the main graph, or with text the one that takes it.

        Args:
            image_B3HW: float32, RGB in 0..1, height and width as ``model.json`` says.
            text_KD: float32, L2-normalised pooled vectors.

        Returns:
            ``scores`` [B, Q, K], ``objectness`` [B, Q], ``boxes`` [B, Q, 4], ``masks``
            [B, Q, H / 4, W / 4]; see docs/export.md.

        Raises:
            InputError: an array does not fit, the graph that is meant is not in the folder, or a
                chain gets several pictures, each of which would keep its own queries.
        """
        graph = self.spec.main if text_KD is None else self.spec.dynamic
        if graph is None or (text_KD is None and graph.vocabulary == "dynamic"):
            wanted = "text vectors" if text_KD is None else "no text vectors"
            raise InputError(f"the graph {self.spec.main.file} takes {wanted}")
        self._check_arrays(image_B3HW, text_KD)
        return self._run_graph(graph, image_B3HW, text_KD)

    def predict(
        self,
        images: Any,
        *,
        names: Any = None,
        expression: Any = None,
        size: int | None = None,
        threshold: float = 0.3,
        max_instances: int = 100,
        names_per_instance: int = 1,
        nms_iou: float | None = None,
        batch_size: int = 8,
        calibrated: bool = True,
        budget: str | None = None,
        operating_point: str | None = None,
        recognise: bool | None = None,
    ) -> Any:
        """Find the instances that are asked for; as :meth:`mobius_seg.Predictor.predict`.

        Pictures are fitted into the graph's input where that has a fixed size. Results of a chain
        carry a receipt; for others ``model.json`` states the schedule of every picture.

        Args:
            images: a picture or a list.
            names: what to look for; with fixed names some of them, None for all. A graph without
                names takes none.
            expression: refused.
            size: longest side in pixels, where the graph takes any size.
            threshold: lowest score that is returned, 0 to 1.
            max_instances: how many are returned at most.
            names_per_instance: best names that each comes under.
            nms_iou: mask IoU of duplicates; None for the model's own.
            batch_size: how many pictures run at once.
            calibrated: map scores, where the model has been calibrated.
            budget: refused.
            operating_point: None, or the one that was exported.
            recognise: refused, as there is no classifier in the graph; None or False.

        Returns:
            One :class:`mobius_seg.Instances` for one picture, a list for a list.

        Raises:
            InputError: a picture or an argument cannot be used.
        """
        _refuse(expression, recognise)
        self.planner.request(budget, operating_point)
        many = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
        sources = list(images) if many else [images]
        prompts = [self._known(p) for p in read_prompts(names, None, len(sources), many)]
        longest = self.config.input_size if size is None else size
        counts = (max_instances, batch_size, calibrated, names_per_instance)
        check_arguments(longest, threshold, *counts, nms_iou)
        side = self._input_side(longest)
        jobs = read_jobs(sources, prompts, side, many)
        limits = [
            Limits(float(threshold), max_instances, maps, names_per_instance, nms_iou)
            for maps in (self._maps(prompt, calibrated) for prompt in prompts)
        ]
        found = self._run_all(jobs, limits, batch_size)
        return found if many else found[0]

    def _run_all(
        self, jobs: Iterator[Job], limits: Sequence[Limits], batch_size: int
    ) -> list[Instances]:
        """Run pictures in batches of one size and prompt; results in their order."""
        results: list[Instances | None] = [None] * len(limits)
        waiting: dict[Any, list[Job]] = {}
        most = batch_size if self.spec.batch is None else self.spec.batch
        for job in jobs:
            if job.prompt.asks_nothing:
                results[job.index] = Instances.empty(job.frame.original, job.source)
                continue
            alike = (job.frame.padded, job.prompt.texts)
            batch = waiting.setdefault(str(alike), [])
            batch.append(job)
            if len(batch) == most:
                self._run_batch(waiting.pop(str(alike)), results, limits)
        for batch in waiting.values():
            self._run_batch(batch, results, limits)
        done = [result for result in results if result is not None]
        assert len(done) == len(results)
        return done

    def _run_batch(
        self, jobs: list[Job], results: list[Instances | None], limits: Sequence[Limits]
    ) -> None:
        """Pictures of one size and prompt."""
        texts = jobs[0].prompt.texts
        graph = self._graph_for(jobs[0].prompt)
        image_B3HW = pad_and_stack([job.pixels for job in jobs], jobs[0].frame).numpy()
        text_KD, columns = None, list(range(max(1, len(texts))))
        if graph.vocabulary == "dynamic":
            text_KD = self.encode(texts)
        elif graph.vocabulary == "baked":
            columns = [graph.names.index(text) for text in texts]
        session = self._sessions[graph.vocabulary]
        if isinstance(session, ChainSession):
            for row, job in enumerate(jobs):
                one, limit = image_B3HW[row : row + 1], limits[job.index]
                results[job.index] = session.instances(one, text_KD, columns, job, limit)
            return
        found = self._run_graph(graph, image_B3HW, text_KD)
        for row, job in enumerate(jobs):
            scores_QK = torch.from_numpy(found["scores"][row][:, columns])
            results[job.index], _ = build_instances(
                self.config, scores_QK, _masks(found, row), job, limits[job.index], 0
            )

    def encode(self, texts: Sequence[str]) -> Array:
        """Text vectors float32 [K, D] of names, from the package's cache or its encoder.

        Raises:
            InputError: the encoder is not the one that the model was trained with.
        """
        encoder = self._text_encoder or default_encoder()
        if encoder.identity != self.config.text_encoder:
            raise InputError(
                f"model {self.config.name!r} reads vectors of {self.config.text_encoder!r}, not of"
                f" {encoder.identity!r}"
            )
        if isinstance(encoder, CachedEncoder):
            return encoder.pooled(texts).numpy()
        return encoder.encode(texts).pooled_KD.numpy()

    def _run_graph(
        self, graph: GraphFile, image_B3HW: Array, text_KD: Array | None
    ) -> dict[str, Array]:
        """A batch; one picture a call where the graph takes no more, but a chain refuses it."""
        session = self._sessions[graph.vocabulary]
        alone = self.spec.batch is not None and len(image_B3HW) != self.spec.batch
        if not alone or isinstance(session, ChainSession):
            return session.run(image_B3HW, text_KD)
        rows = [session.run(image_B3HW[i : i + 1], text_KD) for i in range(len(image_B3HW))]
        return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}

    def _known(self, prompt: Prompt) -> Prompt:
        """The prompt as the graphs can answer it."""
        main = self.spec.main
        if main.vocabulary == "everything":
            if prompt.names is not None:
                raise InputError("this export finds every object and knows no names; give none")
            return prompt
        if prompt.names is None:
            if main.vocabulary == "baked":
                return Prompt(names=main.names)
            raise InputError(
                "this export looks for names; give some, or export with --everything to find every"
                " object"
            )
        if self.spec.dynamic is None:
            unknown = [text for text in prompt.texts if text not in main.names]
            if unknown:
                more = len(main.names) - _SHOWN_NAMES
                shown = ", ".join(main.names[:_SHOWN_NAMES]) + (f" and {more} more" * (more > 0))
                raise InputError(
                    f"name {unknown[0]!r:.60} is not in this export, whose names are fixed: {shown}"
                )
        return prompt

    def _graph_for(self, prompt: Prompt) -> GraphFile:
        """Fixed names where they hold what is asked for."""
        main, dynamic = self.spec.main, self.spec.dynamic
        if main.vocabulary == "baked" and not set(prompt.texts) <= set(main.names):
            assert dynamic is not None, "checked when the prompt was read"
            return dynamic
        return main

    def _maps(self, prompt: Prompt, calibrated: bool) -> ScoreMaps | None:
        """The last stage's map of a prompt."""
        kept = self.spec.calibration.get(NAMES if prompt.texts else EVERYTHING)
        return ScoreMaps(stages=(kept,)) if calibrated and kept is not None else None

    def _input_side(self, longest: int) -> int | tuple[int, int]:
        """What pictures are resized to."""
        if self.spec.size is None:
            return longest
        if longest != max(self.spec.size):
            height, width = self.spec.size
            raise InputError(f"size is {longest}; this export takes {height}x{width} alone")
        return self.spec.size

    def _check_arrays(self, image_B3HW: Array, text_KD: Array | None) -> None:
        """Shapes that the graphs take."""
        shape, size = image_B3HW.shape, self.spec.size
        fits = len(shape) == 4 and shape[0] > 0 and shape[1] == 3
        fits = fits and all(side and side % 32 == 0 for side in shape[2:])
        if not fits or (size is not None and shape[2:] != size):
            sides = "multiples of 32" if size is None else f"{size[0]}x{size[1]}"
            raise InputError(f"image is {list(shape)}; allowed: [B, 3, H, W] with H, W {sides}")
        width = self.config.text_dim
        if text_KD is not None and (text_KD.ndim != 2 or text_KD.shape[1:] != (width,)):
            raise InputError(f"text is {list(text_KD.shape)}; allowed: [K, {width}]")


def _refuse(expression: object, recognise: object) -> None:
    """See that nothing is asked for that is not in the graph."""
    if expression is not None:
        raise InputError("exported graphs answer names; ask the weights for an expression")
    if recognise not in (None, False):
        raise InputError("exported graphs do not recognise; ask the weights, or leave it out")


def _masks(found: dict[str, Array], row: int) -> QueryMasks:
    """Masks of one picture of a batch."""
    logits_Qhw = torch.from_numpy(found["masks"][row])
    size = (logits_Qhw.shape[1], logits_Qhw.shape[2])
    return QueryMasks(
        torch.from_numpy(found["boxes"][row]), size, lambda queries: logits_Qhw[queries]
    )
