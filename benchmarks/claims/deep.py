"""Claim, further models: pruning a deep decoder (nine layers), where there is more to save.

    python benchmarks/claims/deep.py --list
    python benchmarks/claims/deep.py --minutes 60               # again and again until complete
    python benchmarks/report.py

``mobius-n`` with nine decoder layers in place of four is fine-tuned in the small setting
(``setting.py``) from the shipped weights; the layers beyond those of the weights begin as copies of
the last one. Maps are fitted, operating points tuned (as ``mobius-seg tune-pruning`` does) and
floors learned on the setting's calib scenes, and everything of ``pruning.py`` is measured on its
val scenes: adaptive pruning against a fixed cut, random
pruning, uncalibrated scores and the oracle, AP against decoder GMAC, and the share of the final
true positives among the kept queries by layer. The cells go to ``results/pruning.json`` beside
those of the shipped weights, under ``mobius-n-9-layers``. ``python -m mobius_seg.static_points
runs/claims/deep/layers-9-seed0/run/static`` then makes the static points of models without weights
from the static ones tuned here: their cost goes with the AP of ``static@balanced`` and
``static@fast``.

That training has 0.6 of the setting's steps, since a step of nine layers takes longer.

A second one, ``layers-9-reading``, is there because the first one's layers hardly refine anything,
so that depth is worth little to any pruning: its boxes move in steps relative to themselves and
every layer reads a grid over its queries' boxes (``box_steps``, ``box_reading``). Its decoder is
drawn from the seed, the rest is that of the shipped weights, and it has all of the setting's steps.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import load, precision
from pruning import Data, Experiment
from runs import (
    TrainingRun,
    chosen_runs,
    deadline,
    list_runs,
    parser,
    perform,
    read_options,
    reserved,
    run_script,
)
from setting import Bench
from starts import ALL, BACKBONE

from mobius_seg.checkpoint import (
    CALIBRATION_FILE,
    POINTS_FILE,
    load_calibration,
    save_calibration,
    weights_digest,
)
from mobius_seg.data.coco import read_coco
from mobius_seg.evaluate.calibrate import calibrate, copy_model
from mobius_seg.operating_points import FULL, load_points
from mobius_seg.tune_pruning import tune

CLAIM = "deep"
LAYERS = 9
PLAIN, READING = f"layers-{LAYERS}", f"layers-{LAYERS}-reading"
STEPS = {PLAIN: 0.6, READING: 1.0}
"""Share of the setting's steps."""
NAMES = {PLAIN: f"-{LAYERS}-layers", READING: f"-{LAYERS}-layers-reading"}
"""What follows the preset's name in the results."""


def planned(bench: Bench) -> list[TrainingRun]:
    """Both trainings."""
    deep = replace(bench.config, decoder_layers=LAYERS)
    reading = replace(deep, box_steps="relative", box_reading=32)
    kinds = {PLAIN: (deep, ALL), READING: (reading, (*BACKBONE, "pixel_decoder."))}
    return [
        TrainingRun(
            claim=CLAIM,
            variant=variant,
            seed=0,
            config=config,
            parts=parts,
            measure=precision,
            train={"steps": round(STEPS[variant] * bench.setting.steps)},
        )
        for variant, (config, parts) in kinds.items()
    ]


def main(argv: Sequence[str] | None = None) -> bool:
    """Train, calibrate and measure what is missing.

    Returns:
        True when everything is complete.
    """
    options, bench = read_options(parser(__doc__), argv)
    runs = chosen_runs(planned(bench), bench, options)
    if options.list:
        list_runs(runs, bench)
        print("then the cells of pruning.py on the results, stored one by one")
        return False
    try:
        with deadline(options.minutes):
            done = [_work(run, bench, options) for run in runs]
            return all(done)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here")
        return False


def _work(run: TrainingRun, bench: Bench, options: Namespace) -> bool:
    """Train and measure one; whether it is complete."""
    with reserved(run, bench) as mine:
        if not mine:
            print(f"{run.claim}/{run.name}: another process works on it")
            return False
        if not (run.folder(bench) / "run" / "model").exists():  # a result of another machine
            (run.folder(bench) / "result.json").unlink(missing_ok=True)
        perform(run, bench, options)
        return _prune(run, bench, options.threads, options.results)


def _prune(run: TrainingRun, bench: Bench, threads: int, results: Path) -> bool:
    """The cells that are missing."""
    folder = run.folder(bench) / "run" / "model"
    calib, val = bench.scenes("calib"), bench.scenes("val")
    model = load(bench, folder)
    if load_calibration(folder) is None:
        found, _ = calibrate(
            model,
            calib.annotations,
            calib.images,
            weights_sha256=weights_digest(folder),
            progress=False,
        )
        save_calibration(found, folder)
        model = load(bench, folder)
    fixed = folder.with_name("static")
    for form, target in (("static", fixed), ("adaptive", folder)):
        if not (target / POINTS_FILE).exists():
            copy_model(folder, target, (CALIBRATION_FILE,))
            asked = {"form": form, "margin": 0.0}  # points of the stored results had no margin yet
            tune(model, calib.annotations, calib.images, **asked, progress=False).save(target)
    model = load(bench, folder)
    schedules = load_points(fixed, model.config).points
    coco = read_coco(val.annotations)
    facts: dict[str, Any] = {"threads": threads, "command": "python benchmarks/claims/deep.py"}
    experiment = Experiment(
        name=model.config.name + NAMES[run.variant],
        model=model,
        val=Data(coco, val.images, range(len(coco.images)), model.config.input_size),
        calib=lambda: (calib.annotations, calib.images),
        setting={**bench.facts(), "weights_sha256": weights_digest(folder)},
        facts=facts,
        results=results,
        static={name: one.policy for name, one in schedules.items() if name != FULL},
    )
    return experiment.go()


if __name__ == "__main__":
    run_script(main)
