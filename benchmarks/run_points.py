"""What the operating points of a model lose on val-base scenes, which nothing was tuned on."""

import argparse
from pathlib import Path

import mobius_seg
from conditions import ROOT, conditions, store
from mobius_seg.evaluate.runner import evaluate
from val_sets import SEEDS, val_set

POINTS = ("full", "balanced", "fast")


def main() -> None:
    """Measure and store ``results/points_<model>.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobius-n", help="preset name or folder of weights")
    parser.add_argument("--pack", type=Path, default=ROOT / "assets" / "pack.safetensors")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "val")
    parser.add_argument("--limit", type=int, default=250, help="scenes")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    model = mobius_seg.load(options.model)
    found = val_set("val-base", options.pack, options.folder)
    points = {
        point: evaluate(
            model,
            found.annotations,
            found.images,
            limit=options.limit,
            threads=options.threads,
            operating_point=point,
        )
        for point in POINTS
    }
    facts = conditions(
        threads=options.threads,
        precision="float32",
        scenes=f"the first {options.limit} of val-base (seed {SEEDS['val-base']})",
        input_size=model.config.input_size,
    )
    store(f"points_{Path(options.model).name}", {"conditions": facts, "points": points})


if __name__ == "__main__":
    main()
