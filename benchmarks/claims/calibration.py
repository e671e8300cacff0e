"""Claim: the calibration loss makes confidences tell the quality, at every layer.

    python benchmarks/claims/calibration.py --list
    python benchmarks/claims/calibration.py --minutes 120       # again and again until complete
    python benchmarks/report.py

From one shared checkpoint (``--start``, by default the shipped weights, which were trained with
MAL and synonym weighting) equal fine-tunings in the small setting (``setting.py``), half as long as
its trainings, which differ in the loss alone:

* ``focal``, ``varifocal``, ``mal``: the form of the class loss, without synonym weighting;
* ``mal-synonyms`` and ``varifocal-synonyms``: with it; the latter is the default of the project;
* ``final``: that, and every stage learns the quality at the last layer;
* ``uncertainty``: that of ``mal-synonyms`` and a head that predicts the quality;
* ``regions``: that of ``mal-synonyms`` and mask points weighted by language confidence.

Each is judged raw and with isotonic maps fitted on the calib scenes: LaECE_0 and D-ECE of every
stage on more val scenes (``setting.py``; definitions: docs/calibration.md), AP (the same raw and
mapped, as the maps keep the order), and Spearman's correlation of each stage's confidence with the
quality that the query has at the last stage. Three seeds.

``verdict``: LaECE_0 at the middle and the last stage, mapped, against focal + isotonic.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import PRECISION, calibration
from runs import TrainingRun, by_variant, parser, read_options, run_script, summary, work
from setting import Bench
from starts import ALL

from mobius_seg.loss_config import LossConfig

CLAIM = "calibration"
BASELINE, DEFAULT = "focal", "varifocal-synonyms"
STEPS = 0.5
"""Share of the setting's steps: nothing begins from nothing here."""
LOSSES = {
    BASELINE: LossConfig(class_loss="focal", synonyms=False),
    "mal-synonyms": LossConfig(class_loss="mal", synonyms=True),
    "mal": LossConfig(class_loss="mal", synonyms=False),
    "varifocal": LossConfig(class_loss="varifocal", synonyms=False),
    DEFAULT: LossConfig(),
    "final": LossConfig(class_loss="mal", synonyms=True, calibration_target="final"),
    "uncertainty": LossConfig(class_loss="mal", synonyms=True),
    "regions": LossConfig(class_loss="mal", synonyms=True, region_weighting=True),
}
ERRORS = ("laece0", "laece0_noise", "laece0_by_name", "d_ece", "laece0_all", "d_ece_all")


def planned(bench: Bench) -> list[TrainingRun]:
    """All fine-tunings."""
    return [
        TrainingRun(
            claim=CLAIM,
            variant=name,
            seed=seed,
            config=replace(bench.config, uncertainty_head=name == "uncertainty"),
            parts=ALL,
            measure=calibration,
            scenes=("calib", "val", "error-calib", "error-val"),
            train={"loss": loss, "steps": round(STEPS * bench.setting.steps)},
        )
        for seed in bench.setting.seeds
        for name, loss in LOSSES.items()
    ]


def main(argv: Sequence[str] | None = None) -> bool:
    """Fine-tune, fit, measure and store what is missing.

    Returns:
        True when everything is complete.
    """
    options, bench = read_options(parser(__doc__), argv)
    return work(planned(bench), bench, options, gather)


def gather(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Values of the claim from its complete runs."""
    entries = by_variant(results, PRECISION)
    reports = {
        name: [r["figures"]["errors"] for r in results if r["variant"] == name] for name in entries
    }
    first = next(iter(reports.values()))[0]
    for name, entry in entries.items():
        entry["stages"] = [_stage(reports[name], stage) for stage in range(len(first["stages"]))]
    return {
        "baseline": BASELINE,
        "default": DEFAULT,
        "bins": first["bins"],
        "middle_stage": first["middle_stage"],
        "last_stage": len(first["stages"]) - 1,
        "variants": entries,
        "verdict": verdict(entries, first["middle_stage"]),
    }


def _stage(reports: list[dict[str, Any]], stage: int) -> dict[str, Any]:
    """One stage over all seeds of a variant."""
    seeds = [report["stages"][stage] for report in reports]
    return {
        "stage": stage,
        "rank_correlation": summary([seed["rank_correlation"] for seed in seeds]),
        **{
            form: {key: summary([seed[form][key] for seed in seeds]) for key in ERRORS}
            for form in ("raw", "mapped")
        },
    }


def verdict(entries: dict[str, Any], middle: int) -> dict[str, Any]:
    """LaECE_0 with isotonic maps at two stages against that of focal with isotonic maps.

    Args:
        entries: variants with their stages.
        middle: the middle stage.

    Returns:
        For each variant but the baseline, ``middle`` and ``last``, each with ``laece0``,
        ``baseline`` (means over seeds), ``spread`` (the larger of the two, None for single seeds)
        and ``lower``; ``holds`` where both are lower; ``best``: the variant of the lowest sum.
    """
    if BASELINE not in entries:
        return {}
    found: dict[str, Any] = {}
    sums: dict[str, float] = {}
    for name, entry in entries.items():
        sides: dict[str, Any] = {}
        for label, stage in (("middle", middle), ("last", -1)):
            mine = entry["stages"][stage]["mapped"]["laece0"]
            theirs = entries[BASELINE]["stages"][stage]["mapped"]["laece0"]
            if mine["mean"] is None or theirs["mean"] is None:
                break
            spreads = [s for s in (mine["spread"], theirs["spread"]) if s is not None]
            sides[label] = {
                "laece0": mine["mean"],
                "baseline": theirs["mean"],
                "spread": max(spreads, default=None),
                "lower": mine["mean"] < theirs["mean"],
            }
        else:
            sums[name] = sum(side["laece0"] for side in sides.values())
            if name != BASELINE:
                found[name] = sides | {"holds": all(side["lower"] for side in sides.values())}
    return {"against": f"{BASELINE} + isotonic", "variants": found} | (
        {"best": min(sums, key=lambda name: sums[name])} if sums else {}
    )


if __name__ == "__main__":
    run_script(main)
