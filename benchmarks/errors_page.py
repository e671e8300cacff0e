"""The results page's section on what objects are lost to."""

from conditions import RESULTS
from run_errors import AREAS, BESIDE, ENDS
from tables import conditions_line, fraction, json_file, table

PROSE = """\
What becomes of each object among the 100 best instances of its picture, all names of the split
asked, by its area (up to 32x32, up to 96x96, beyond): the best-scored instance that covers it (mask
IoU of 0.5 or more) has its name or another one; no instance covers it, but one reaches an IoU of
0.1; or none does. *Near name*: misnamed, but the given name says nearly the same (text cosine of
0.72 or more, or the same head noun: "coffee mug" for a coffee cup). *Doubled*: further instances
that cover it, for each object. Per cent of all.
"""


def errors_section(model: str) -> str:
    """Table of both splits; empty where nothing was measured."""
    stored = json_file(RESULTS / f"errors_{model}.json")
    if not stored:
        return ""
    rows = []
    for split, sizes in stored["splits"].items():
        every = {
            end: sum(counts.get(end, 0) for counts in sizes.values()) for end in (*ENDS, *BESIDE)
        }
        for size, counts in [("all", every), *((size, sizes[size]) for size in AREAS)]:
            objects = sum(counts.get(end, 0) for end in ENDS)
            shares = [
                fraction(counts.get(end, 0) / objects if objects else None)
                for end in (*ENDS, *BESIDE)
            ]
            rows.append([split, size, str(objects), *shares])
    header = ["composed split", "size", "objects", *ENDS, *BESIDE]
    return "\n".join(
        [
            f"## What {model} loses objects to\n",
            PROSE,
            table(header, rows, right=range(2, 9)),
            conditions_line(stored["conditions"]),
        ]
    )
