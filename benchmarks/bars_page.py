"""The bars that were set before the weights were trained, beside what was measured."""

from dataclasses import dataclass
from typing import Any

from conditions import RESULTS
from points_page import lost
from tables import json_file, table

PROSE = """\
Bars set beforehand, for training on a CPU alone and with an accelerator; how each was measured
stands in the sections below. AP, AR and P in per cent.
"""
HEADER = ["figure", "measured", "bar, CPU training", "bar, accelerator"]


@dataclass(frozen=True)
class Bar:
    """A figure and what it should be.

    Attributes:
        label: what is measured.
        path: keys that lead to it, the first of them the stored file's kind.
        cpu: bar after training on a CPU alone.
        accelerator: bar with one.
    """

    label: str
    path: tuple[str, ...]
    cpu: float
    accelerator: float


def _bars(*values: tuple[float, float]) -> tuple[Bar, ...]:
    labels = (
        ("val-base, named mask AP50", ("quality", "splits", "val-base", "names", "mask_ap50")),
        ("val-novel, named mask AP50", ("quality", "splits", "val-novel", "names", "mask_ap50")),
        (
            "val-base, class-agnostic mask AP50",
            ("quality", "splits", "val-base", "names", "agnostic_mask_ap50"),
        ),
        (
            "val-novel, class-agnostic mask AP50",
            ("quality", "splits", "val-novel", "names", "agnostic_mask_ap50"),
        ),
        (
            "val-base, expressions P@0.5",
            ("quality", "splits", "val-base", "expressions", "p_at_50"),
        ),
        (
            "photographs (test), class-agnostic AR@100",
            ("photos", "halves", "test", "everything", "agnostic_ar100"),
        ),
        (
            "photographs (test), named mask AP50",
            ("photos", "halves", "test", "names", "mask_ap50"),
        ),
    )
    return tuple(Bar(label, path, *bar) for (label, path), bar in zip(labels, values, strict=True))


BARS = {
    "mobius-n": _bars((55, 72), (16, 32), (72, 86), (68, 82), (55, 72), (45, 60), (25, 40)),
    "mobius-s": _bars((60, 77), (18, 36), (75, 89), (71, 85), (60, 76), (50, 65), (30, 45)),
}
LOSS, LAECE = 0.3, 0.05
"""Most that ``balanced`` may lose in points of AP, and most that mapped scores may be off."""


def bars_section(model: str) -> str:
    """Table of the bars; empty where none were set or nothing was measured."""
    rows = []
    for bar in BARS.get(model, ()):
        value = _at(json_file(RESULTS / f"{bar.path[0]}_{model}.json"), bar.path[1:])
        if value is not None:
            rows.append([bar.label, f"{100 * value:.1f}", f"{bar.cpu}", f"{bar.accelerator}"])
    if not rows:
        return ""
    if points := json_file(RESULTS / f"points_{model}.json"):
        text = f"at most {LOSS}"
        loss = f"{lost(points, 'balanced', 'mask_ap'):.2f}"
        rows.append(["`balanced`, points of named mask AP lost", loss, text, text])
    if scores := json_file(RESULTS / f"calibration_{model}.json"):
        text = f"at most {LAECE}"
        stages = [stage for mode in scores["modes"].values() for stage in mode["stages"]]
        worst = max(stage["mapped"]["laece0"] for stage in stages)
        rows.append(["val-base, mapped LaECE_0, the worst stage", f"{worst:.3f}", text, text])
    return "\n".join(
        [f"## {model} against its bars\n", PROSE, table(HEADER, rows, right=(1, 2, 3))]
    )


def _at(values: Any, path: tuple[str, ...]) -> float | None:
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values
