"""Images a second of a training, composing included: number formats, folding, the allocator.

Each variant is a process of its own, one after the other; a step is what ``mobius-seg train`` does
with one loader process beside it. The first steps are left out, the median of the others counts.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch

from conditions import ROOT, conditions, store
from mobius_seg.train import loop
from mobius_seg.train.folded import FoldedConv
from mobius_seg.train.settings import TrainConfig

KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "10000000000"}
VARIANTS: dict[str, tuple[str, bool, bool]] = {
    "fp32": ("fp32", False, False),
    "bf16": ("bf16", False, False),
    "fp32, norms folded": ("fp32", True, False),
    "bf16, norms folded, depthwise gradients in tiles": ("bf16", True, False),
    "the same, freed memory kept": ("bf16", True, True),
}
"""Precision, folding, and whether freed memory is kept."""


def main() -> None:
    """Measure every variant and store ``results/training_speed.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, default=ROOT / "assets" / "pack.safetensors")
    parser.add_argument("--preset", default="mobius-n")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--variant", choices=VARIANTS, help="run this one here and print it")
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(_measure(options)))
        return
    rows = []
    for name, (_, _, keep) in VARIANTS.items():
        command = [sys.executable, __file__, *sys.argv[1:], "--variant", name]
        environment = os.environ | (KEEP_MEMORY if keep else {})
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, env=environment, check=True
        )
        rows.append({"variant": name, **json.loads(done.stdout.splitlines()[-1])})
        print(rows[-1], flush=True)
    facts = conditions(
        preset=options.preset,
        size=options.size,
        batch=16,
        steps=options.steps,
        threads=torch.get_num_threads(),
    )
    store("training_speed", {"conditions": facts, "rows": rows})


def _measure(options: argparse.Namespace) -> dict[str, float]:
    """One variant: seconds of a step and images a second."""
    precision, folded, _ = VARIANTS[options.variant]
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            preset=options.preset,
            out=Path(folder) / "run",
            pack=options.pack,
            steps=options.steps,
            sizes=((0.0, options.size),),
            precision=precision,
            pretrained=True,
        )
        if folded:
            run = loop.Run(config)
        else:
            with mock.patch.object(loop, "fold_norms"):
                run = loop.Run(config)
        there = any(isinstance(module, FoldedConv) for module in run.network.modules())
        assert there == folded, "the variant is not what its name says"
        times = [time.perf_counter()]
        for batch in run._loader():
            run._step(batch)
            times.append(time.perf_counter())
    warm = options.steps // 4
    seconds = [after - before for before, after in itertools.pairwise(times)][warm:]
    step = statistics.median(seconds)
    mean = statistics.fmean(seconds)
    return {
        "step_seconds_median": round(step, 4),
        "images_per_second": round(config.batch_size / step, 2),
        "images_per_second_mean": round(config.batch_size / mean, 2),
    }


if __name__ == "__main__":
    main()
