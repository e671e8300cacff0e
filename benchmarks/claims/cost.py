"""First claim, the part that needs no training: what our decoders cost against the baseline's.

Every pair is counted by dispatch on the meta device and checked against the closed forms; nothing
is timed. Writes ``results/cost.json`` and the picture of ``mobius-seg profile --limits``.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conditions import ROOT, conditions, store
from cost_page import PICTURE
from mobius_seg.cost.limits import bars, limits, save_picture
from mobius_seg.cost.report import as_json, measure

PAIRS = (
    ("mobius-m", "glee-lite", ((800, 1344), (640, 640))),
    ("mobius-l", "glee-plus", ((800, 1344), (640, 640))),
    ("mobius-h", "glee-pro", ((1536, 1536),)),
)
NAMES, TEXT_TOKENS = 80, 260
LIMITS_SIZE = (800, 1344)


def main() -> None:
    """Count and store."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    pairs = [_pair(ours, theirs, size) for ours, theirs, sizes in PAIRS for size in sizes]
    parts = bars(limits(LIMITS_SIZE, NAMES, TEXT_TOKENS))
    facts = conditions(names=NAMES, text_tokens=TEXT_TOKENS, operating_point="full")
    facts["command"] = "python benchmarks/claims/cost.py"
    rounded = {b: {part: round(v, 4) for part, v in values.items()} for b, values in parts.items()}
    limited = {"size": list(LIMITS_SIZE), "backbones": rounded}
    store("cost", {"conditions": facts, "pairs": pairs, "limits": limited})
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


def _round(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in values.items()}


if __name__ == "__main__":
    main()
