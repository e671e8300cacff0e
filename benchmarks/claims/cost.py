"""First claim, the part that needs no training: what our decoders cost against the baseline's.

Every pair is counted by dispatch on the meta device and checked against the closed forms; nothing
is timed. The pixel decoder is counted at more sizes in closed form alone. Writes
``results/cost.json`` and the picture of ``mobius-seg profile --limits``.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conditions import ROOT, conditions, store
from cost_page import PICTURE
from mobius_seg.config import ModelConfig
from mobius_seg.cost.closed import closed_form
from mobius_seg.cost.dispatch import meta_network
from mobius_seg.cost.limits import BASELINE, bars, limits, save_picture
from mobius_seg.cost.parts import DECODER, MASK_PRODUCT, MEMORY, PIXELS, SELECTION
from mobius_seg.cost.record import part_sum, workload
from mobius_seg.cost.report import as_json, measure, operating_points, origin_of, points_of
from mobius_seg.presets import get_preset

PAIRS = (
    ("mobius-m", "glee-lite", ((800, 1344), (640, 640))),
    ("mobius-l", "glee-plus", ((800, 1344), (640, 640))),
    ("mobius-h", "glee-pro", ((1536, 1536),)),
)
NAMES, TEXT_TOKENS = 80, 260
LIMITS_SIZE = (800, 1344)
PHONES = ("mobius-p", "mobius-n", "mobius-s")
PIXEL_SIZES = ((512, 512), (640, 640), (800, 1344), (1024, 1024))


def main() -> None:
    """Count and store."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    pairs = [_pair(ours, theirs, size) for ours, theirs, sizes in PAIRS for size in sizes]
    pixels = [entry for ours, theirs in _pixel_pairs() for entry in _pixel_decoders(ours, theirs)]
    decoder = _decoder(*PAIRS[0])
    parts = bars(limits(LIMITS_SIZE, NAMES, TEXT_TOKENS))
    points = [entry for ours, theirs, sizes in PAIRS for entry in _points(ours, theirs, sizes[0])]
    facts = conditions(names=NAMES, text_tokens=TEXT_TOKENS, operating_point="full")
    facts["command"] = "python benchmarks/claims/cost.py"
    rounded = {b: {part: round(v, 4) for part, v in values.items()} for b, values in parts.items()}
    limited = {"size": list(LIMITS_SIZE), "backbones": rounded}
    counted = {"pairs": pairs, "pixel_decoder": pixels, "decoder": decoder, "points": points}
    counted["limits"] = limited
    store("cost", {"conditions": facts, **counted})
    save_picture(ROOT / "docs" / PICTURE, parts)


def _pair(ours: str, theirs: str, size: tuple[int, int]) -> dict[str, Any]:
    """Cost of a model and of its baseline at one size."""
    load = (size, NAMES, TEXT_TOKENS)
    profile, other = measure(ours, *load), measure(theirs, *load)
    values = as_json(profile, other)
    print(ours, theirs, size, values["ratio"]["gmac"], flush=True)
    return {
        "model": ours,
        "against": theirs,
        "size": list(size),
        "params": {ours: profile.total_parameters, theirs: other.total_parameters},
        "gmac": _round(values["gmac"]),
        "against_gmac": _round(other.totals()),
        "ratio": _round(values["ratio"]["gmac"]),
        "parts": _round(values["parts"]),
        "against_parts": _round(as_json(other)["parts"]),
    }


def _points(ours: str, theirs: str, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Cost of our decoder at each of its operating points, against the whole baseline's."""
    load = (size, NAMES, TEXT_TOKENS)
    other, known = measure(theirs, *load), operating_points(get_preset(ours), points_of(ours))
    entries = []
    for point, kept in known.items():
        profile = measure(ours, *load, point)
        entries.append(
            {
                "model": ours,
                "against": theirs,
                "size": list(size),
                "point": point,
                "queries": list(kept),
                "origin": origin_of(ours, point),
                "gmac": _round(profile.totals()),
                "ratio": _round(as_json(profile, other)["ratio"]["gmac"]),
            }
        )
    return entries


def _pixel_pairs() -> list[tuple[ModelConfig, ModelConfig]]:
    """Each model and the baseline of its backbone; for phone sizes the baseline's decoder there."""
    pairs = [(get_preset(ours), get_preset(theirs)) for ours, theirs, _ in PAIRS]
    for name in PHONES:
        ours = get_preset(name)
        pairs.append((ours, replace(get_preset(BASELINE), backbone=ours.backbone)))
    return pairs


def _pixel_decoders(ours: ModelConfig, theirs: ModelConfig) -> list[dict[str, Any]]:
    """Cost of both pixel decoders behind one backbone, in closed form, at every size."""
    channels = meta_network(ours).backbone.channels
    entries = []
    for size in PIXEL_SIZES:
        gmac = []
        for config in (ours, theirs):
            work = workload(config, size, NAMES, TEXT_TOKENS)
            gmac.append(part_sum(closed_form(config, channels, work), PIXELS) / 1e9)
        named = {"model": ours.name, "against": theirs.name, "backbone": ours.backbone}
        counted = {"gmac": gmac[0], "against_gmac": gmac[1], "ratio": gmac[0] / gmac[1]}
        entries.append(named | {"size": list(size)} | _round(counted))
    return entries


def _decoder(ours: str, theirs: str, sizes: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """What our decoder spends, in closed form, and what it would with other name maps."""
    config, size = get_preset(ours), sizes[0]
    macs = _decoder_macs(config, size)
    without = _decoder_macs(replace(config, name_map=False), size)
    whole, bare = part_sum(macs, DECODER), part_sum(without, DECODER)
    fixed = {"masks": macs[MASK_PRODUCT], "selection": macs[SELECTION], "memory": macs[MEMORY]}
    terms = {**fixed, "names": whole - bare, "layers": bare - sum(fixed.values())}
    other = part_sum(_decoder_macs(get_preset(theirs), size), DECODER)
    # Names that only the last layer reads: nothing in between asks for a confidence.
    last = bare + (whole - bare) // config.decoder_layers
    least = fixed["selection"] + fixed["memory"]
    found = {"whole": whole, "without": bare, "last": last, "least": least}
    found["finer"] = part_sum(_decoder_macs(replace(config, name_stride=16), size), DECODER)
    return {
        "model": ours,
        "against": theirs,
        "size": list(size),
        "against_gmac": round(other / 1e9, 4),
        "terms": _round({key: value / 1e9 for key, value in terms.items()}),
        "ratio": _round({key: value / other for key, value in found.items()}),
    }


def _decoder_macs(config: ModelConfig, size: tuple[int, int]) -> dict[str, int]:
    """All but the backbone, whose channels say nothing about the decoder."""
    return closed_form(config, (0, 0, 0, 0), workload(config, size, NAMES, TEXT_TOKENS))


def _round(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in values.items()}


if __name__ == "__main__":
    main()
