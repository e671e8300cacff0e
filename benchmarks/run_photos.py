"""Accuracy of a model on the outlined photographs of ``benchmarks/photos``: names, and everything.

``make photos`` fetches the pictures. Nothing is tuned on the half called ``test``.
"""

import argparse
from pathlib import Path

import mobius_seg
from conditions import ROOT, conditions, store
from mobius_seg.evaluate.runner import evaluate

HALVES = ("dev", "test")


def main() -> None:
    """Measure and store ``results/photos_<model>.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobius-n", help="preset name or folder of weights")
    parser.add_argument("--images", type=Path, default=ROOT / "runs" / "photos")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trial", action="store_true", help="print, do not store")
    options = parser.parse_args()
    model = mobius_seg.load(options.model)
    halves = {
        half: {
            mode: evaluate(
                model,
                ROOT / "benchmarks" / "photos" / f"{half}.json",
                options.images,
                mode=mode,
                threads=options.threads,
            )
            for mode in ("names", "everything")
        }
        for half in HALVES
    }
    print(halves)
    if options.trial:
        return
    facts = conditions(
        threads=options.threads, precision="float32", input_size=model.config.input_size
    )
    store(f"photos_{Path(options.model).name}", {"conditions": facts, "halves": halves})


if __name__ == "__main__":
    main()
