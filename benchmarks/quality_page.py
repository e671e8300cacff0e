"""The results page's section on composed scenes."""

from conditions import RESULTS
from tables import conditions_line, fraction, json_file, table

PROSE = """\
All names of the split are the vocabulary; *agnostic* ignores the names of the same predictions;
P@0.5 and cIoU are of referring expressions, each answered by its best instance. Per cent.
"""
_SIZES = ("small", "medium", "large")


def quality_section(model: str) -> str:
    """Table of both splits; empty where nothing was measured."""
    stored = json_file(RESULTS / f"quality_{model}.json")
    if not stored:
        return ""
    rows = []
    for split, modes in stored["splits"].items():
        names, spoken = modes["names"], modes["expressions"]
        rows.append(
            [split, str(names["images"]), str(names["names"])]
            + [fraction(names[key]) for key in ("mask_ap", "mask_ap50", "box_ap", "box_ap50")]
            + [fraction(names[f"agnostic_{key}"]) for key in ("mask_ap", "mask_ap50", "ar100")]
            + [fraction(spoken[key]) for key in ("p_at_50", "ciou")]
        )
    header = ["composed split", "scenes", "names", "mask AP", "mask AP50", "box AP", "box AP50"]
    header += ["agnostic mask AP", "agnostic AP50", "agnostic AR@100", "P@0.5", "cIoU"]
    by_size = [
        [split, *(fraction(modes["names"].get(f"mask_ap_{size}")) for size in _SIZES)]
        for split, modes in stored["splits"].items()
    ]
    return "\n".join(
        [
            f"## Accuracy of {model} on composed scenes\n",
            PROSE,
            table(header, rows, right=range(1, 12)),
            "Named mask AP by the area of the object (up to 32x32, up to 96x96, beyond):\n",
            table(["composed split", *_SIZES], by_size, right=range(1, 4)),
            conditions_line(stored["conditions"]),
        ]
    )
