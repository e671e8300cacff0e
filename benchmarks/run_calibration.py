"""How far the released scores are from the quality found, on val-base, with and without maps."""

import argparse
from pathlib import Path

import torch

import mobius_seg
from conditions import ROOT, conditions, store
from mobius_seg.evaluate.calibrate import calibration_report
from val_sets import SEEDS, val_set

NAMES_ASKED = 20  # as the released maps were fitted


def main() -> None:
    """Measure and store ``results/calibration_<model>.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobius-n", help="preset name or folder of weights")
    parser.add_argument("--pack", type=Path, default=ROOT / "assets" / "pack.safetensors")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "val")
    parser.add_argument("--limit", type=int, default=250, help="scenes")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = mobius_seg.load(options.model)
    found = val_set("val-base", options.pack, options.folder)
    modes = {
        mode: calibration_report(
            model, found.annotations, found.images, mode=mode, asked=asked, limit=options.limit
        )
        for mode, asked in (("names", NAMES_ASKED), ("everything", None))
    }
    facts = conditions(
        threads=options.threads,
        precision="float32",
        scenes=f"the first {options.limit} of val-base (seed {SEEDS['val-base']})",
        names_asked=NAMES_ASKED,
        input_size=model.config.input_size,
    )
    store(f"calibration_{Path(options.model).name}", {"conditions": facts, "modes": modes})


if __name__ == "__main__":
    main()
