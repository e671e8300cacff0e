"""The results page's section on what the released scores are worth."""

from conditions import RESULTS
from tables import conditions_line, json_file, table

PROSE = """\
LaECE_0 ([how](calibration.md)) of each stage, raw and through the released maps, which were fitted
on other scenes; *noise* is what scores that are right in every bin would show on as many
detections. With names, each picture is asked for twenty, its own among them. Bar: 0.05.
"""
HEADER = ["asked", "stage", "detections", "raw", "mapped", "noise"]


def calibration_section(model: str) -> str:
    """Table of both modes; empty where nothing was measured."""
    stored = json_file(RESULTS / f"calibration_{model}.json")
    if not stored:
        return ""
    rows = []
    for mode, report in stored["modes"].items():
        for entry in report["stages"]:
            values = [
                entry["raw"]["laece0"],
                entry["mapped"]["laece0"],
                entry["mapped"]["laece0_noise"],
            ]
            cells = ["-" if value is None else f"{value:.3f}" for value in values]
            stage = f"layer {entry['stage']}" if entry["stage"] else "selection"
            rows.append([mode, stage, str(entry["detections"]), *cells])
    return "\n".join(
        [
            f"## What scores of {model} are worth\n",
            PROSE,
            table(
                ["asked", "stage", "detections", "raw", "mapped", "noise"], rows, right=range(2, 6)
            ),
            conditions_line(stored["conditions"]),
        ]
    )
