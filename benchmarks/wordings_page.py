"""The results page's section on names in other words."""

from conditions import RESULTS
from tables import conditions_line, fraction, json_file, table

PROSE = """\
The objects of val-base asked for in other words than those of the training's vocabulary: with an
article, in the plural, as a caption ("a photo of a cup"), by the first synonym of the names that
have one (their objects alone; the row before has these under their own names), and by broad kinds
("animal", "furniture") on the scenes whose objects are each of exactly one of them. Per cent.
"""


def wordings_section(model: str) -> str:
    """Table of the ways of asking; empty where nothing was measured."""
    stored = json_file(RESULTS / f"wordings_{model}.json")
    if not stored:
        return ""
    rows = [
        [way, str(found["images"]), fraction(found["mask_ap"]), fraction(found["mask_ap50"])]
        for way, found in stored["ways"].items()
    ]
    return "\n".join(
        [
            f"## {model} asked in other words\n",
            PROSE,
            table(["names", "scenes", "mask AP", "mask AP50"], rows, right=(1, 2, 3)),
            conditions_line(stored["conditions"]),
        ]
    )
