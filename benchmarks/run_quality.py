"""Accuracy of a model on the two composed val sets: names, class-agnostic and expressions."""

import argparse
from pathlib import Path

import mobius_seg
from conditions import ROOT, conditions, store
from mobius_seg.evaluate.runner import evaluate
from val_sets import COUNT, SEEDS, SIZE, val_set


def main() -> None:
    """Measure and store ``results/quality_<model>.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobius-n", help="preset name or folder of weights")
    parser.add_argument("--pack", type=Path, default=ROOT / "assets" / "pack.safetensors")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "val")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="only the first pictures (a trial, not stored)")
    parser.add_argument("--input", type=int, help="input size, default the model's own")
    arguments = parser.parse_args()
    model = mobius_seg.load(arguments.model)
    splits = {}
    for split in SEEDS:
        found = val_set(split, arguments.pack, arguments.folder)
        splits[split] = {
            mode: evaluate(
                model,
                found.annotations,
                found.images,
                mode=mode,
                size=arguments.input,
                threads=arguments.threads,
                limit=arguments.limit,
            )
            for mode in ("names", "expressions")
        }
        print(split, splits[split])
    if arguments.limit is not None:
        return
    facts = conditions(
        threads=arguments.threads,
        precision="float32",
        batch=splits["val-base"]["names"]["conditions"]["batch"],
        scenes=f"{COUNT} composed {SIZE}x{SIZE} scenes a split, seeds {SEEDS}",
        input_size=arguments.input or model.config.input_size,
    )
    name = Path(arguments.model).name
    store(f"quality_{name}", {"conditions": facts, "splits": splits})


if __name__ == "__main__":
    main()
