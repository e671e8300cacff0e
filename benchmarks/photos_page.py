"""The results page's section on photographs."""

from conditions import RESULTS
from tables import conditions_line, fraction, json_file, table

PROSE = """\
Real photographs, outlined by hand ([how](photographs.md)): nothing was trained on them, and nothing
is tuned on the half called *test*. All 52 names of the set are asked for. Per cent.
"""


def photos_section(model: str) -> str:
    """Table of both halves; empty where nothing was measured."""
    stored = json_file(RESULTS / f"photos_{model}.json")
    if not stored:
        return ""
    rows = []
    for half, modes in stored["halves"].items():
        names, every = modes["names"], modes["everything"]
        rows.append(
            [half, str(names["images"])]
            + [fraction(names[key]) for key in ("mask_ap", "mask_ap50")]
            + [fraction(every[f"agnostic_{key}"]) for key in ("mask_ap", "mask_ap50", "ar100")]
        )
    header = ["half", "photographs", "named mask AP", "named AP50", "everything: mask AP"]
    header += ["AP50", "AR@100"]
    return "\n".join(
        [
            f"## Accuracy of {model} on photographs\n",
            PROSE,
            table(header, rows, right=range(1, 7)),
            conditions_line(stored["conditions"]),
        ]
    )
