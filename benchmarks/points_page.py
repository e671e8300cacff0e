"""The results page's section on what operating points save and lose."""

from conditions import RESULTS, ROOT
from tables import conditions_line, json_file, table

PROSE = """\
Tuned on calib scenes for a loss of 0.3 points (`balanced`) and 1.2 (`fast`) at most
([pruning](pruning.md)), measured on val scenes. Cost: GMAC of the decoder there, over that of
`full`. AP in per cent.
"""
HEADER = ["operating point", "decoder's cost", "mask AP", "lost", "agnostic mask AP", "lost"]


def points_section(model: str) -> str:
    """Table of the points; empty where nothing was measured."""
    stored = json_file(RESULTS / f"points_{model}.json")
    tuned = json_file(ROOT / "src/mobius_seg/weights" / model / "operating_points.json")
    if not stored or not tuned:
        return ""
    rows = []
    for point in stored["points"]:
        share = tuned["points"][point]["measured"]["decoder_gmac"]
        share /= tuned["points"]["full"]["measured"]["decoder_gmac"]
        row = [f"`{point}`", f"{share:.2f}"]
        for key in ("mask_ap", "agnostic_mask_ap"):
            row += [f"{100 * stored['points'][point][key]:.2f}", f"{lost(stored, point, key):.2f}"]
        rows.append(row)
    return "\n".join(
        [
            f"## What the operating points of {model} lose\n",
            PROSE,
            table(HEADER, rows, right=range(1, 6)),
            conditions_line(stored["conditions"]),
        ]
    )


def lost(stored: dict, point: str, key: str) -> float:
    """Points of AP that an operating point loses against ``full``."""
    return 100 * float(stored["points"]["full"][key] - stored["points"][point][key])
