"""Gather the parity reports of exports into ``results/parity.json``, the worst of each.

    mobius-seg export --model mobius-n --format onnx --dynamic-names --out exported/n
    python benchmarks/collect_parity.py exported/n exported/p

A report of the same model, weights, runtime, precision, operating point, size, reference and kinds
of graphs takes the place of an older one. Segments are left to their own report. The conditions in
a file are those of its last run: reports from another device go ``--into`` a file of their own.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from conditions import RESULTS, conditions, store

SAID = ("model", "weights_sha256", "runtime", "precision", "operating_point", "size", "reference")
IDENTITY = (*SAID, "graphs")
WORST = {
    "score": max,
    "logit": max,
    "mask_iou": min,
    "mask_iou_min": min,
    "box_iou": min,
    "classes": min,
}


def main() -> None:
    """Read the folders, store what they say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="that mobius-seg export wrote")
    parser.add_argument("--into", metavar="NAME", default="parity", help="file in results/")
    options = parser.parse_args()
    path = RESULTS / f"{options.into}.json"
    entries = json.loads(path.read_text())["reports"] if path.exists() else []
    for folder in options.folders:
        entry = summary(json.loads((folder / "parity.json").read_text()))
        entries = [one for one in entries if _identity(one) != _identity(entry)] + [entry]
    facts = conditions()
    facts["command"] = f"python benchmarks/collect_parity.py --into {options.into}"
    entries.sort(key=lambda one: [str(one[key]) for key in IDENTITY])
    store(options.into, {"conditions": facts, "reports": entries})


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """What a report says, over all its cases of names and batches."""
    cases = [case for graph in report["cases"].values() for case in graph]
    return {
        **{key: report[key] for key in SAID},
        "graphs": sorted(report["cases"]),
        "inputs": report["inputs"],
        "names": sorted({case["names"] for case in cases}),
        "batches": sorted({case["batch"] for case in cases}),
        **{key: worst(case[key] for case in cases) for key, worst in WORST.items()},
        "ap": report["ap"],
        "passed": report["passed"],
    }


def _identity(entry: dict[str, Any]) -> list[Any]:
    return [entry[key] for key in IDENTITY]


if __name__ == "__main__":
    main()
