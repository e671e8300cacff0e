"""Claim: mixing scales and text at one small bottleneck costs no accuracy.

    python benchmarks/claims/pixel_decoder.py --list
    python benchmarks/claims/pixel_decoder.py --minutes 120     # again and again until complete
    python benchmarks/report.py

Compared are pixel decoders in the same network, trained equally (``setting.py``); the transformer
decoder and everything else stay those of ``mobius-n``, the narrow variant apart:

* ``multiscale``: the baseline's form, deformable layers over the tokens of strides 8, 16 and 32 and
  text fused into all of them;
* ``s32``, ``s16``: spatial bottlenecks of stride 32 (``mobius-n`` as it is) and 16, plain mixing;
* ``s16-deformable``: stride 16, mixed by deformable attention whose keys are all levels, the form
  of the accelerator sizes; next to ``multiscale`` only the bottleneck differs;
* ``narrow``: the channel bottleneck, half the width of tokens and queries with stride 32 (so its
  transformer decoder is narrower too);
* ``s32-levels``, ``multiscale-bottleneck``: the same as ``s32`` and ``multiscale`` with the other
  place of the fusion: text into the tokens of every scale, or of stride 32 alone;
* ``s16-deformable-open``, ``s32-open``: the gates of the scatter step start at 1 in place of 0.1,
  so that what the bottleneck mixed reaches the maps from the first step on;
* ``s16-deformable-wide``: the levels are refined by a depthwise 7x7 convolution and a two-layer MLP
  after the bottleneck came back to them; ``s16-deformable-wide-2``: by two such blocks, gates open;
* ``s16-tokens``, ``s16-tokens-wide-2``: queries come from the tokens of stride 16 alone, those that
  were mixed, in place of strides 8 and 16;
* ``...-relative``: heads predict steps relative to the box in place of steps of its logits;
* ``...-read``: these, and each decoder layer reads a grid over its queries' boxes;
* ``...-masks``: masks are made of a full 3x3 convolution at stride 4, as in ``multiscale``, its
  steps relative to the box; with ``-read`` the grid too, with ``-64`` of 64 channels (and grid),
  with ``-wide`` one wide block on each level, gates open;
* ``...-crop``: these, and masks are compared within the enlarged boxes;
* ``multiscale-6``, ``s16-deformable-6``: six mixing layers, as in ``glee-lite`` and ``mobius-m``.

All variants start from the backbone, name map and text projection of the same weights; pixel
decoder, transformer decoder and heads are drawn from the seed. Three seeds each; every variant has
its first seed before the second ones begin.

Cost is counted for the very networks that are trained, with 80 names, at 800 x 1344 and 640 x 640
(``mobius_seg.cost``). Accuracy: mask AP, class-agnostic AP50 and AP of small objects (below 32 x 32
pixels) on the setting's val scenes.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import PRECISION, precision
from runs import TrainingRun, by_variant, parser, read_options, run_script, work
from setting import LEAST_AP50, Bench
from starts import BACKBONE

from mobius_seg.config import ModelConfig
from mobius_seg.cost.certify import certified_profile
from mobius_seg.cost.record import workload
from mobius_seg.loss_config import LossConfig, PointConfig

CLAIM = "pixel_decoder"
BASELINE = "multiscale"
SIZES = ((800, 1344), (640, 640))
NAMES = 80
CROPPED = LossConfig(class_loss="mal", synonyms=True, points=PointConfig(count=64, in_box=768))
"""Masks are compared where they end up: within the enlarged boxes, hardly outside."""


def variants(base: ModelConfig) -> dict[str, ModelConfig]:
    """Configurations by name, the most telling first.

    Args:
        base: a bottleneck model of stride 32 with plain mixing.
    """
    changes: dict[str, dict[str, Any]] = {
        BASELINE: {"pixel_decoder": "multiscale", "mixing": "deformable", "fusion": "levels"},
        "s32": {},
        "s16-deformable": {"bottleneck_stride": 16, "mixing": "deformable"},
        "s16": {"bottleneck_stride": 16},
        "narrow": {
            "width": base.width // 2,
            "mixing_ffn": base.mixing_ffn // 2,
            "fusion_width": base.fusion_width // 2,
        },
        "s32-levels": {"fusion": "levels"},
        "multiscale-bottleneck": {"pixel_decoder": "multiscale", "mixing": "deformable"},
    }
    opened = {"gate_init": 1.0}
    changes["s16-deformable-open"] = changes["s16-deformable"] | opened
    changes["s32-open"] = opened
    wide = {"refine_expansion": 4}
    changes["s16-deformable-wide"] = changes["s16-deformable"] | wide
    twice = wide | {"refine_layers": 2} | opened
    changes["s16-deformable-wide-2"] = changes["s16-deformable"] | twice
    mixed = {"token_strides": (16,)}
    changes["s16-tokens"] = changes["s16-deformable-open"] | mixed
    changes["s16-tokens-wide-2"] = changes["s16-deformable-wide-2"] | mixed
    steps = {"box_steps": "relative"}
    read = steps | {"box_reading": 32}
    for name in (BASELINE, "s32", "s16-deformable-open", "s16-deformable-wide-2"):
        changes[f"{name}-relative"] = changes[name] | steps
        changes[f"{name}-read"] = changes[name] | read
    full = {"mask_conv": base.width}
    changes["s32-masks"] = changes["s32-relative"] | full
    changes["s32-masks-wide"] = changes["s32-masks"] | wide | opened
    changes["s32-masks-64"] = changes["s32-read"] | {"mask_conv": 64}
    changes["s32-masks-read"] = changes["s32-read"] | full
    changes["s16-masks"] = changes["s16-deformable-open-relative"] | full
    changes["s16-masks-read"] = changes["s16-deformable-open-read"] | full
    for name in (BASELINE, "s32"):
        changes[f"{name}-crop"] = changes[name] | read
    six = {"mixing_layers": 6}
    changes["multiscale-6"] = changes[BASELINE] | six
    changes["s16-deformable-6"] = changes["s16-deformable"] | six
    return {name: replace(base, **change) for name, change in changes.items()}


def planned(bench: Bench) -> list[TrainingRun]:
    """All trainings."""
    return [
        TrainingRun(
            claim=CLAIM,
            variant=name,
            seed=seed,
            config=config,
            parts=BACKBONE,
            measure=precision,
            train={"loss": CROPPED} if name.endswith("-crop") else {},
        )
        for seed in bench.setting.seeds
        for name, config in variants(bench.config).items()
    ]


def costs(config: ModelConfig) -> dict[str, dict[str, float]]:
    """GMAC of the large parts at both sizes, and ``params``."""
    found = {}
    for size in SIZES:
        profile = certified_profile(config, workload(config, size, NAMES))
        found[f"{size[0]}x{size[1]}"] = {
            **{part: round(gmac, 4) for part, gmac in profile.totals().items()},
            "params": profile.total_parameters,
        }
    return found


def main(argv: Sequence[str] | None = None) -> bool:
    """Train, measure and store what is missing.

    Returns:
        True when everything is complete.
    """
    options, bench = read_options(parser(__doc__), argv)
    counted: dict[str, Any] = {}

    def gather(results: list[dict[str, Any]]) -> dict[str, Any]:
        figures = by_variant(results, PRECISION)
        for name in figures:
            if name not in counted:
                counted[name] = costs(variants(bench.config)[name])
        entries = {name: {"gmac": counted[name]} | values for name, values in figures.items()}
        baseline = figures.get(BASELINE, {}).get("agnostic_mask_ap50", {}).get("mean")
        return {
            "baseline": BASELINE,
            "names": NAMES,
            "least_ap50": LEAST_AP50,
            "says_something": None if baseline is None else baseline >= LEAST_AP50,
            "variants": entries,
            "verdict": verdict(figures),
        }

    return work(planned(bench), bench, options, gather)


def verdict(figures: dict[str, Any]) -> dict[str, Any]:
    """Is the AP of each variant within the spread of the baseline's seeds, or better?

    Args:
        figures: by variant, see ``runs.by_variant``.

    Returns:
        For each variant and figure ``difference`` to the baseline's mean, ``spread`` of the
        baseline and ``holds``; ``holds`` is None while the baseline has fewer than two seeds.
    """
    if BASELINE not in figures:
        return {}
    found: dict[str, Any] = {}
    for name, values in figures.items():
        if name == BASELINE:
            continue
        found[name] = {}
        for key in ("mask_ap", "agnostic_mask_ap50", "mask_ap_small"):
            mine, theirs = values[key]["mean"], figures[BASELINE][key]["mean"]
            spread = figures[BASELINE][key]["spread"]
            if mine is None or theirs is None:
                continue
            holds = None if spread is None else mine >= theirs - spread
            found[name][key] = {"difference": mine - theirs, "spread": spread, "holds": holds}
    return found


if __name__ == "__main__":
    run_script(main)
