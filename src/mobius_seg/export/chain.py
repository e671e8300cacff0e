"""Chains the segments of :mod:`mobius_seg.export.segments`: adaptive pruning in any runtime.

What decides is the package's own :class:`mobius_seg.pruning.PruningPolicy`: after each stage the
calibrated confidence says which queries go on, and whether the picture is done. Layers that are not
needed are not run, and masks are computed for what is shown.

Shapes: Q queries, K names; one picture a call.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.export.segments import ANSWER, FEATURES, STATE, context_names
from mobius_seg.export.session import Array, contiguous
from mobius_seg.export.spec import IMAGE, TEXT, ExportSpec
from mobius_seg.instances import Instances
from mobius_seg.jobs import Job, Limits, build_instances
from mobius_seg.posthoc import ScoreMaps
from mobius_seg.postprocess import QueryMasks
from mobius_seg.pruning import IdentityMaps, PruningPolicy, StageMaps, change
from mobius_seg.receipt import Receipt

CHAIN = "chain"
"""Key of ``facts`` in ``model.json`` under which a chain is described."""


@dataclass(frozen=True, kw_only=True)
class ChainResult:
    """What a chain says about one picture.

    Attributes:
        answer: of the last layer that ran: ``boxes`` [1, Q, 4], ``scores`` [1, Q, K],
            ``objectness`` [1, Q] and ``mask_vectors`` [1, Q, M].
        features: mask features, [1, M, H / 4, W / 4].
        index_Q: original number of each query, ascending.
        queries: how many queries ran each stage, the selection first.
    """

    answer: dict[str, Array]
    features: Array
    index_Q: Tensor
    queries: tuple[int, ...]


class Segment(Protocol):
    """A graph as ONNX Runtime has it; others are wrapped to look alike."""

    def run(self, outputs: None, feed: dict[str, Array]) -> Sequence[Array]:
        """Every output, in the segment's order, for inputs by name."""


class ChainSession:
    """Segments, run one after the other.

    Args:
        config: of the network.
        segments: the first, the layers and the masks, in this order.
        policy: which queries go on, and when the picture is done.
        maps: of each stage's confidence; None for a model that is not calibrated.
    """

    def __init__(
        self,
        config: ModelConfig,
        segments: Sequence[Segment],
        policy: PruningPolicy,
        maps: ScoreMaps | None,
    ) -> None:
        """See the class."""
        self.policy, self.maps = policy, maps
        self._config = config
        self._context = context_names(config)
        self._encode, self._layers, self._masks = segments[0], segments[1:-1], segments[-1]

    def run_one(
        self,
        image_13HW: Array,
        text_KD: Array | None,
        *,
        threshold: float = 0.0,
        maps: StageMaps | None = None,
    ) -> ChainResult:
        """Run as many layers as a picture needs.

        Args:
            image_13HW: float32, RGB in 0..1.
            text_KD: float32, where the vocabulary is an input.
            threshold: lowest score that the caller will return, under the maps.
            maps: of the confidence; None for the chain's own.
        """
        maps = maps or self.maps or IdentityMaps()
        feed = {IMAGE: contiguous(image_13HW)}
        if text_KD is not None:
            feed[TEXT] = contiguous(text_KD)
        names = (*STATE, *self._context, FEATURES)
        found = dict(zip(names, self._encode.run(None, feed), strict=True))
        context = {name: found[name] for name in self._context}
        features, index_Q = found[FEATURES], torch.arange(found["query"].shape[1])
        queries = [len(index_Q)]
        before: tuple[Tensor, Tensor] | None = None  # confidence and boxes of the stage before
        for stage in range(len(self._layers) + 1):
            confidence_Q = maps.apply(stage, torch.from_numpy(found["confidence"]))[0]
            (count,) = self.policy.counts(stage, confidence_Q[None], threshold)
            order = confidence_Q.topk(count).indices
            boxes_Q4 = torch.from_numpy(found["boxes"])[0]
            if stage == len(self._layers) or self._settled(confidence_Q, boxes_Q4, before, order):
                break
            kept = order.sort().values
            before, index_Q = (confidence_Q[kept], boxes_Q4[kept]), index_Q[kept]
            state = {name: found[name][:, kept.numpy()] for name in ("query", "boxes")}
            answers = self._layers[stage].run(None, {**state, **context})
            found = dict(zip((*STATE, *ANSWER), answers, strict=True))
            queries.append(len(index_Q))
        answer = {name: found[name] for name in ("boxes", *ANSWER)}
        return ChainResult(
            answer=answer, features=features, index_Q=index_Q, queries=tuple(queries)
        )

    def run(self, image_B3HW: Array, text_KD: Array | None) -> dict[str, Array]:
        """As :meth:`mobius_seg.export.session.Session.run`, at threshold 0, with every mask.

        Raises:
            InputError: more than one picture: each has its own number of queries.
        """
        if len(image_B3HW) != 1:
            raise InputError(f"{len(image_B3HW)} pictures; a chain takes one a call")
        return self.outputs(self.run_one(image_B3HW, text_KD))

    def outputs(self, result: ChainResult) -> dict[str, Array]:
        """A result under the names of a graph's outputs, with every mask."""
        kept = {name: result.answer[name] for name in ("scores", "objectness", "boxes")}
        every = torch.arange(len(result.index_Q))
        return {**kept, "masks": self.masks(result, every).numpy()[None]}

    def masks(self, result: ChainResult, queries_N: Tensor) -> Tensor:
        """Mask logits [N, H / 4, W / 4] of some queries of a result."""
        vectors = contiguous(result.answer["mask_vectors"][:, queries_N.numpy()])
        feed = {"mask_vectors": vectors, FEATURES: result.features}
        return torch.from_numpy(self._masks.run(None, feed)[0][0])

    def instances(
        self,
        image_13HW: Array,
        text_KD: Array | None,
        columns: Sequence[int],
        job: Job,
        limits: Limits,
    ) -> Instances:
        """Instances of one picture, with the receipt of what was run for it.

        Args:
            image_13HW: the picture as the graph takes it.
            text_KD: text vectors, where the vocabulary is an input.
            columns: of the prompt's names in the chain's scores.
            job: the picture.
            limits: what is returned; maps that are not None stand for the chain's own.
        """
        threshold = limits.threshold
        if limits.maps is not None:
            limits = replace(limits, maps=self.maps)
        elif self.maps is not None:  # pruning reads mapped scores whatever is returned
            raw = torch.tensor(threshold, dtype=torch.float64)
            threshold = float(self.maps.apply(self._config.decoder_layers, raw))
        result = self.run_one(image_13HW, text_KD, threshold=threshold)
        boxes_Q4 = torch.from_numpy(result.answer["boxes"][0])
        size = (result.features.shape[2], result.features.shape[3])
        masks = QueryMasks(boxes_Q4, size, lambda queries: self.masks(result, queries))
        scores_QK = torch.from_numpy(result.answer["scores"][0])
        stage = len(result.queries) - 1
        found, computed = build_instances(
            self._config, scores_QK[:, list(columns)], masks, job, limits, stage
        )
        receipt = Receipt(
            config=self._config,
            input_hw=(image_13HW.shape[2], image_13HW.shape[3]),
            columns=scores_QK.shape[1],
            tokens=0,
            queries=result.queries,
            masks=computed,
            text_known=text_KD is None,
        )
        return replace(found, receipt=receipt)

    def _settled(
        self,
        confidence_Q: Tensor,
        boxes_Q4: Tensor,
        before: tuple[Tensor, Tensor] | None,
        kept: Tensor,
    ) -> bool:
        """Whether the picture is done; never before a layer has run."""
        if self.policy.settle is None or before is None:
            return False
        score = confidence_Q[kept]
        moved = change(score, before[0][kept], boxes_Q4[kept], before[1][kept])
        return self.policy.settled(score, moved)


def open_chain(folder: Path, spec: ExportSpec, threads: int | None) -> ChainSession:
    """Open the chain of a folder.

    Args:
        folder: of the export.
        spec: what its ``model.json`` says.
        threads: inside an operator; None for one a core.

    Raises:
        InputError: a file is missing or broken, or the chain's description is malformed.
    """
    facts, where = spec.facts[CHAIN], str(folder)
    try:
        files = [Path(file).name for file in chain_files(facts)]
        policy, maps = facts["policy"], facts["maps"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder}: the chain's description is malformed: {error!r}") from None
    return ChainSession(
        spec.config,
        [_open(folder / file, threads) for file in files],
        PruningPolicy.from_dict(policy, where),
        None if maps is None else ScoreMaps.from_dict(maps, where),
    )


def chain_facts(
    config: ModelConfig, files: Sequence[str], policy: PruningPolicy, maps: ScoreMaps | None
) -> dict[str, Any]:
    """What ``model.json`` says about a chain.

    Args:
        config: of the network.
        files: of the segments in their order.
        policy: of the operating point.
        maps: of each stage's confidence.
    """
    context = context_names(config)
    return {
        "encode": files[0],
        "layers": list(files[1:-1]),
        "masks": files[-1],
        "encode_outputs": [*STATE, *context, FEATURES],
        "layer_inputs": ["query", "boxes", *context],
        "layer_outputs": [*(f"next_{name}" for name in STATE), *ANSWER],
        "masks_inputs": ["mask_vectors", FEATURES],
        "policy": policy.to_dict(),
        "maps": None if maps is None else maps.as_dict(),
    }


def chain_files(facts: dict[str, Any]) -> list[str]:
    """The segments that :func:`chain_facts` names, in their order."""
    return [facts["encode"], *facts["layers"], facts["masks"]]


def _open(file: Path, threads: int | None) -> Any:
    """A session of one segment."""
    import onnxruntime

    from mobius_seg.export.session_onnx import session_options

    if not file.is_file():
        raise InputError(f"{file}: no such file; export the model again")
    try:
        return onnxruntime.InferenceSession(
            str(file), session_options(threads), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the runtime's own kinds share no base but this one
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{file}: ONNX Runtime cannot open it: {reason}") from error
