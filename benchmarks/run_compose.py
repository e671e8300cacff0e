"""How many scenes one process composes in a second, and what 16 of them would give.

A GPU that trains on 800 images a second at 256x256 is kept busy by 16 processes of 50 scenes a
second each; ``needed`` says how many processes of this machine's kind that takes.
"""

import argparse
import math
import statistics
import time
from pathlib import Path

import numpy as np

from conditions import ROOT, conditions, store
from mobius_seg.data.pack import Pack
from mobius_seg.data.scenes import SceneComposer

GPU_RATE = 800.0


def main() -> None:
    """Measure and store ``results/compose.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, default=ROOT / "assets" / "pack.safetensors")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    composer = SceneComposer(Pack.open(arguments.pack), "train", arguments.size)
    for index in range(arguments.scenes):  # fills the cache of decoded pictures
        composer.compose(np.random.default_rng([1, index]))
    result = {}
    for label, expressions in (("names", False), ("expressions", True)):
        times = []
        for index in range(arguments.scenes):
            rng = np.random.default_rng([0, index])
            start = time.perf_counter()
            composer.compose(rng, expressions=expressions)
            times.append(time.perf_counter() - start)
        rate = 1 / statistics.fmean(times)
        result[label] = {
            "mean_ms": round(1000 * statistics.fmean(times), 2),
            "median_ms": round(1000 * statistics.median(times), 2),
            "scenes_per_second": round(rate, 1),
            "sixteen_processes": round(16 * rate),
            "needed": math.ceil(GPU_RATE / rate),
        }
        print(label, result[label])
    facts = conditions(threads=1, scenes=f"{arguments.scenes} of {arguments.size}x{arguments.size}")
    store("compose", {"conditions": facts, "compose": result})


if __name__ == "__main__":
    main()
