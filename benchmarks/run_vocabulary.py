"""Time and peak memory of ``predict`` as the vocabulary grows, with seeded text vectors.

Every vocabulary has a process of its own, and all take turns in blocks. The largest is also run
with no name left out (``vocabulary.kept = None``). Text is in the cache's memory before the first
counted run, as it is for whoever asks for the same names again.
"""

import argparse
from pathlib import Path
from typing import Any

from conditions import conditions, store
from mobius_seg.bench.contenders import ALL_NAMES, Contender, own_config, read_size
from mobius_seg.bench.interleave import Measured, measure
from mobius_seg.name_limits import KEPT, LIKELIEST, MANY

COUNTS = (1, 80, 1203, 10_000)
BASE = 80  # what the bars compare with
BARS = {"memory_mb": 1000.0, "time_ratio": 2.0}


def main() -> None:
    """Measure and store ``results/vocabulary.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobius-n", help="preset, or a folder of weights")
    parser.add_argument("--size", help="input, such as 448 (default: the model's own)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--trial", action="store_true", help="print, do not store")
    options = parser.parse_args()
    side = own_config(options.model).input_size
    size = read_size(options.size, "--size") if options.size else (side, side)
    asked = [(count, "") for count in COUNTS] + [(COUNTS[-1], ALL_NAMES)]
    contenders = [
        Contender(
            model=options.model, runtime="predict", size=size, names=count,
            threads=options.threads, vocabulary=vocabulary,
        )
        for count, vocabulary in asked
    ]  # fmt: skip
    measured = measure(contenders, options.runs, options.blocks, print)
    base = next(one for one in measured if one.contender.names == BASE)
    rows = [row(one, base) for one in measured]
    for values in rows:
        print(values)
    if options.trial:
        return
    facts = conditions(threads=options.threads, precision="float32", batch=1, mode="eager")
    limits = {"many": MANY, "kept": KEPT, "tokens": LIKELIEST}
    result = {
        "conditions": facts,
        "model": Path(options.model).name,
        "size": list(size),
        "runs": options.runs,
        "blocks": options.blocks,
        "limits": limits,
        "bars": BARS,
        "rows": rows,
    }
    store("vocabulary", result)


def row(one: Measured, base: Measured) -> dict[str, Any]:
    """Figures of one vocabulary, absolute and beside those of the base."""
    return {
        "names": one.contender.names,
        "left_out": one.contender.vocabulary != ALL_NAMES and one.contender.names > MANY,
        "predict_ms": round(one.median_ms, 2),
        "time_ratio": round(one.median_ms / base.median_ms, 3),
        "peak_mb": round(one.peak_mb, 1),
        "more_mb": round(one.peak_mb - base.peak_mb, 1),
    }


if __name__ == "__main__":
    main()
