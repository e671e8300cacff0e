"""Parts of one prediction beside the time that the processor would need at its best.

The roofline of a part is its multiply-accumulates (:mod:`mobius_seg.cost`) through the rate that a
large matrix product reaches on this machine with as many threads, measured in the same blocks. What
a part takes beyond that is memory traffic, small or depthwise operators, and Python.
"""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from mobius_seg.bench.contenders import Contender
from mobius_seg.bench.runners import load_network, network_inputs, static_policy
from mobius_seg.config import ModelConfig
from mobius_seg.cost.certify import certified_profile
from mobius_seg.cost.record import Profile, workload
from mobius_seg.jobs import Limits, read_instances, read_job
from mobius_seg.preprocess import pad_and_stack
from mobius_seg.prompts import Prompt
from mobius_seg.pruned_decoder import run_pruned
from mobius_seg.pruning import PruningPolicy

PREPROCESS, BACKBONE, PIXELS = "preprocess", "backbone", "pixel decoder"
DECODER, HEADS, POSTPROCESS = "transformer decoder", "heads and mask product", "postprocess"
STAGES = (PREPROCESS, BACKBONE, PIXELS, DECODER, HEADS, POSTPROCESS)
INSTANCES = 20
"""Instances that are made in the last part; the best ones, whatever their scores."""
_SIDE = 1024  # of the matrices of the rate


class Clock:
    """Times parts that lie inside each other; each moment belongs to the innermost.

    Attributes:
        seconds: by part.
    """

    def __init__(self) -> None:
        """See the class."""
        self.seconds: dict[str, float] = {}
        self._stack: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs within belongs to ``name``."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def enter(self, name: str) -> None:
        """From now on ``name``."""
        self._charge()
        self._stack.append(name)

    def leave(self) -> None:
        """Back to what was before."""
        self._charge()
        self._stack.pop()

    def follow(self, module: nn.Module, name: str) -> None:
        """Whenever a module runs, it is ``name``."""
        module.register_forward_pre_hook(lambda *_: self.enter(name))
        module.register_forward_hook(lambda *_: self.leave(), always_call=True)

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._stack:
            name = self._stack[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


class StageRunner:
    """A prediction from a picture twice as large as the input to instances, part by part.

    Args:
        contender: of ours, in torch.
    """

    def __init__(self, contender: Contender) -> None:
        """See the class."""
        self.network, _ = load_network(contender)
        config = self.network.config
        self.policy, _ = static_policy(contender, config)
        _, self.prompt = network_inputs(contender, config)
        height, width = contender.size
        generator = np.random.default_rng(contender.seed)
        self.picture = generator.integers(0, 256, (2 * height, 2 * width, 3), dtype=np.uint8)
        self.asked = Prompt(names=tuple(f"name {i}" for i in range(contender.names)))
        self.shape = (height, width, contender.names, 0)
        self.limits = Limits(0.0, INSTANCES, None)
        self.facts: dict[str, Any] = {
            "gmac": stage_gmac(config, contender, self.policy),
            "instances": INSTANCES,
        }
        self.clock = Clock()
        self.clock.follow(self.network.backbone, BACKBONE)
        self.clock.follow(self.network.decoder.heads, HEADS)
        self._before: list[dict[str, float]] = []

    @torch.inference_mode()
    def run(self) -> None:
        """Every part once."""
        self.clock.seconds = {}
        with self.clock.part(PREPROCESS):
            job = read_job(self.picture, 0, self.asked, max(self.shape[:2]), None)
            images_B3HW = pad_and_stack([job.pixels], job.frame)
        with self.clock.part(PIXELS):
            encoded = self.network.encode(images_B3HW, self.prompt)
        with self.clock.part(DECODER):
            (pruned,) = run_pruned(self.network, encoded, self.policy)
        with self.clock.part(HEADS):
            last = pruned.output.layers[-1]
            self.network.mask_product(last.mask_embed_BQM, encoded.mask_features_BMhw)
        with self.clock.part(POSTPROCESS):
            read_instances(self.network.config, pruned, job, self.limits, self.shape)
        self._before.append(self.clock.seconds)

    def start_block(self) -> None:
        """What follows is counted."""
        self._before = []

    def end_block(self) -> dict[str, Any]:
        """Median of each part in milliseconds, and the rate of a matrix product."""
        medians = {
            stage: 1000 * statistics.median(seconds.get(stage, 0.0) for seconds in self._before)
            for stage in STAGES
        }
        return {"stages_ms": medians, "matrix_gmac_per_s": matrix_rate()}


def matrix_rate(tries: int = 3) -> float:
    """GMAC a second of a float32 matrix product of 1024x1024 by 1024x1024, the best of some."""
    values = torch.randn(_SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    best = float("inf")
    for _ in range(tries + 1):
        start = time.perf_counter()
        values @ values
        best = min(best, time.perf_counter() - start)
    return _SIDE**3 / 1e9 / best


def stage_gmac(
    config: ModelConfig, contender: Contender, policy: PruningPolicy
) -> dict[str, float]:
    """Multiply-accumulates of each stage that has any, in 10^9.

    Args:
        config: of the model.
        contender: its size and names.
        policy: full or static.
    """
    depth = policy.depth(config.decoder_layers)
    kept = [policy.cap(layer, config.queries) for layer in range(1, depth + 1)]
    profile = certified_profile(config, workload(config, contender.size, contender.names), kept)
    return split_by_stage(profile)


def split_by_stage(profile: Profile) -> dict[str, float]:
    """A profile's parts added up by stage, in GMAC; text counts with the pixel decoder.

    Args:
        profile: of a network.
    """
    found = dict.fromkeys((BACKBONE, PIXELS, DECODER, HEADS), 0.0)
    for part, macs in profile.macs.items():
        group, last = part.partition(".")[0], part.rpartition(".")[2]
        stage = {"backbone": BACKBONE, "transformer_decoder": DECODER}.get(group, PIXELS)
        if stage == DECODER and last in ("heads", "mask_product"):
            stage = HEADS
        found[stage] += macs / 1e9
    return found


def summary(facts: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Times over all blocks beside the roofline.

    Args:
        facts: of a :class:`StageRunner`.
        blocks: what its blocks gave.

    Returns:
        ``matrix_gmac_per_s``, the largest of all blocks, and ``stages``: ``latency_ms``, ``gmac``,
        ``at_peak_ms`` and ``share`` (of the peak rate that is reached) of each; null where a stage
        has no multiply-accumulates.
    """
    rate = max(block["matrix_gmac_per_s"] for block in blocks)
    stages = {}
    for stage in STAGES:
        latency_ms = statistics.median(block["stages_ms"][stage] for block in blocks)
        gmac = facts["gmac"].get(stage)
        at_peak = None if gmac is None else 1000 * gmac / rate
        stages[stage] = {
            "latency_ms": round(latency_ms, 3),
            "gmac": None if gmac is None else round(gmac, 5),
            "at_peak_ms": None if at_peak is None else round(at_peak, 3),
            "share": None if at_peak is None or not latency_ms else round(at_peak / latency_ms, 4),
        }
    return {"matrix_gmac_per_s": round(rate, 2), "instances": facts["instances"], "stages": stages}
