"""Claim: one stage over all data reaches the staged schedule's accuracy in fewer iterations.

    python benchmarks/claims/training.py --list
    python benchmarks/claims/training.py --minutes 120          # again and again until complete
    python benchmarks/report.py

Both train ``mobius-n`` in the small setting (``setting.py``) on the same loop, the same losses, the
same kinds of samples (names with masks, names with boxes alone, masks without names, expressions)
and the same images a step, from the backbone, name map, text projection and pixel decoder of the
same weights; the transformer decoder is drawn from the seed. (Where the pixel decoder was drawn
too, half of the steps ended at 4 class-agnostic AP50, which says nothing.)

* ``unified-all``, ``unified-half``, ``unified-third``: one stage over the whole mixture, which
  completes a schedule of its own in all, half or a third of the steps;
* ``staged-long-joint`` and ``staged-even``: boxes alone with the text projection frozen, then the
  mixture, then the mixture with more masks without names, in two splits of the steps (1 : 4 : 1 and
  1 : 1 : 1). Every stage has warm-up, flat part and cosine of its own and a fresh optimiser, as a
  series of runs. Its better split is what the unified runs are judged against.

* ``...-fast``: the same at twice the learning rates, which a short schedule may bear.

Three seeds. Every run is measured at its end, and on the way after half of the setting's
steps (averaged weights, which are not yet annealed there). Named mask AP and class-agnostic AP50 on
the val scenes.

``verdict``: which unified runs reach the final AP of the better staged split.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import PRECISION, precision
from runs import TrainingRun, by_variant, parser, read_options, run_script, work
from setting import Bench
from starts import BACKBONE

from mobius_seg.train.mixture import Source
from mobius_seg.train.recipe import Recipe, Stage

CLAIM = "training"
PARTS = {"unified-all": 1, "unified-half": 2, "unified-third": 3}
SPLITS = {"staged-long-joint": (1, 4, 1), "staged-even": (1, 1, 1)}
FAST = 2.0
"""Factor on the learning rates of the fast variants."""
QUICKENED = ("unified-half", "staged-long-joint", "unified-all")
MEASURED = 2
"""A run is measured each time another such part of the setting's steps is done."""


def mixture(agnostic: float = 0.15, expressions: float = 0.1) -> tuple[Source, ...]:
    """All kinds of supervision, from composed scenes.

    Args:
        agnostic: share of masks without names.
        expressions: share of expressions; the rest are names, half with masks, half with boxes.
    """
    named = (1 - agnostic - expressions) / 2
    shares = {"masks": named, "boxes": named, "agnostic": agnostic, "expressions": expressions}
    return tuple(
        Source(kind="composed", ratio=share, supervision=supervision)
        for supervision, share in shares.items()
    )


def staged(split: Sequence[int]) -> Recipe:
    """A staged schedule in the style of GLEE.

    Args:
        split: lengths of the three stages against each other.
    """
    boxes = (Source(kind="composed", supervision="boxes"),)
    first, second, third = split
    return Recipe(
        stages=(
            Stage(name="boxes", share=first, sources=boxes, frozen=("text_projection",)),
            Stage(name="joint", share=second, sources=mixture()),
            Stage(name="scale-up", share=third, sources=mixture(agnostic=0.4)),
        )
    )


def planned(bench: Bench) -> list[TrainingRun]:
    """All trainings, the most telling first."""
    steps = bench.setting.steps
    # With a mixture, shares of expressions and of samples without names are those of its sources.
    common = {"expression_ratio": 0.15, "agnostic_ratio": 0.15}
    common |= {"snapshot_steps": max(1, steps // MEASURED)}
    unified = {
        name: {"mixture": mixture(), "steps": round(steps / part)} for name, part in PARTS.items()
    }
    stages = {name: {"recipe": staged(split)} for name, split in SPLITS.items()}
    given = dict(bench.setting.train)
    rates = {name: FAST * given[name] for name in ("lr", "backbone_lr")}
    variants: dict[str, dict[str, Any]] = {**unified, **stages}
    variants |= {f"{name}-fast": variants[name] | rates for name in QUICKENED}
    fast = [f"{name}-fast" for name in QUICKENED]
    order = ("unified-half", *SPLITS, "unified-third", "unified-all", *fast)
    return [
        TrainingRun(
            claim=CLAIM,
            variant=name,
            seed=seed,
            config=bench.config,
            parts=(*BACKBONE, "pixel_decoder."),
            measure=measured,
            train={**common, **variants[name]},
        )
        for seed in bench.setting.seeds
        for name in order
    ]


def measured(bench: Bench, folder: Path) -> dict[str, Any]:
    """Figures of the finished model, and under ``points`` those on the way by step."""
    points = {}
    end = json.loads((folder / "training.json").read_text(encoding="utf-8"))["steps"]
    for snapshot in sorted((folder.parent / "snapshots").glob("step-*")):
        step = int(snapshot.name.removeprefix("step-"))
        if step < end:
            points[str(step)] = precision(bench, snapshot)
    return precision(bench, folder) | {"points": points}


def main(argv: Sequence[str] | None = None) -> bool:
    """Train, measure and store what is missing.

    Returns:
        True when everything is complete.
    """
    options, bench = read_options(parser(__doc__), argv)
    return work(planned(bench), bench, options, gather)


def gather(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Values of the claim from its complete runs."""
    entries = by_variant(results, PRECISION)
    for name, entry in entries.items():
        mine = [result for result in results if result["variant"] == name]
        entry["steps"] = mine[0]["steps"]
        entry["curves"] = [
            {
                int(step): {key: figures[key] for key in ("mask_ap", "agnostic_mask_ap50")}
                for step, figures in [
                    *result["figures"]["points"].items(),
                    (result["steps"], result["figures"]),
                ]
            }
            for result in mine
        ]
    return {"variants": entries, "verdict": verdict(entries)}


def verdict(entries: dict[str, Any], key: str = "mask_ap") -> dict[str, Any]:
    """Which unified runs reach the better staged split.

    Args:
        entries: variants with their figures.
        key: the figure.

    Returns:
        ``figure``, ``staged`` (the better split), ``ap`` and ``spread`` of it, and for each unified
        run its ``ap``, ``share`` of the staged run's steps and whether it ``reaches`` that AP;
        empty while there is no staged run.
    """
    splits = {
        name: entry[key]
        for name, entry in entries.items()
        if name.startswith("staged") and entry[key]["mean"]
    }
    if not splits:
        return {}
    best = max(splits, key=lambda name: float(splits[name]["mean"]))
    goal = splits[best]["mean"]
    unified = {
        name: {
            "ap": entries[name][key]["mean"],
            "share": entries[name]["steps"] / entries[best]["steps"],
            "reaches": (entries[name][key]["mean"] or 0.0) >= goal,
        }
        for name in entries
        if name.startswith("unified")
    }
    return {
        "figure": key,
        "staged": best,
        "splits": {name: values["mean"] for name, values in splits.items()},
        "ap": goal,
        "spread": splits[best]["spread"],
        "unified": unified,
    }


if __name__ == "__main__":
    run_script(main)
