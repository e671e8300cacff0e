"""Which emoji show an object, and what it is called, by rules on their Unicode names.

``emoji_names.json`` holds what the rules alone get wrong: names that Python's Unicode table lacks
before 3.12 (the official ones, so that the result is the same with any Python), sequences that are
objects, objects whose name reads like a sign, and names that are no object, by reason.
"""

import json
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib import resources

from mobius_seg.data.names import CleanName, clean

# Words in Unicode names that mark what is no object.
_NO_OBJECT_RULE = re.compile(
    r"\b(?:sign|symbol|arrows?|arrowhead|squared|circled|negative|keycap|ideograph|triangle|"
    r"(?:large|medium|small) (?:red|blue|orange|yellow|green|purple|brown|black|white) \w+|"
    r"(?:black|white) (?:large|medium|small) .*|button|double|heavy|curly|asterisk|"
    r"hearts?|hands?|fist|fingers?|backhand|thumbs|palms?(?! tree)|pointing|"
    r"persons?|people|man|men|woman|women|boy|girl|adult|child|children|couple|family|baby angel|"
    r"bride|bust|busts|father|mother|face with|cat face with|clock face|flags?|suit|chess|"
    r"moon(?! cake)|sun|mark|ornament|stroke|waving|rightwards|leftwards|pedestrians?|"
    r"buildings|at dusk|over|sunrise|weather|cross|brightness|no|square|circle|tag|regional|"
    r"mahjong|playing|card black|japanese (?:ogre|goblin)|emblem|bubble(?! tea)|capital)\b"
)


def emoji_name(code_points: tuple[int, ...]) -> CleanName | None:
    """Name of the object that a drawing of ``code_points`` shows.

    Args:
        code_points: without variation selectors.

    Returns:
        The cleaned Unicode name, or None for what is no object: faces, hands, most people, flags,
        signs, arrows, shapes, views of a place, and every sequence that is not listed.
    """
    tables = _tables()
    text = "-".join(f"{code_point:x}" for code_point in code_points)
    if text in tables.sequences:
        return CleanName(tables.sequences[text])
    if len(code_points) != 1:
        return None  # flags, keycaps, skin tones, families
    name = tables.unicode_15.get(text) or unicodedata.name(chr(code_points[0]), "").lower()
    if name in tables.renamed:
        return CleanName(tables.renamed[name])
    if not name or name in tables.not_objects or _NO_OBJECT_RULE.search(name):
        return None
    if name.endswith(" face"):
        name = name.removesuffix(" face")
        if name not in tables.animals_drawn_as_faces:
            return None
    # Unicode says black for filled and white for outlined: no colours
    return clean(re.sub(r"^(?:black|white) ", "", name))


@dataclass(frozen=True, kw_only=True)
class _Tables:
    unicode_15: dict[str, str]
    sequences: dict[str, str]
    renamed: dict[str, str]
    animals_drawn_as_faces: frozenset[str]
    not_objects: frozenset[str]


@cache
def _tables() -> _Tables:
    text = resources.files("mobius_seg.data").joinpath("emoji_names.json").read_text("utf-8")
    raw = json.loads(text)
    return _Tables(
        unicode_15=raw["unicode_15"],
        sequences=raw["sequences"],
        renamed=raw["renamed"],
        animals_drawn_as_faces=frozenset(raw["animals_drawn_as_faces"]),
        not_objects=frozenset(name for names in raw["not_objects"].values() for name in names),
    )
