"""Cleaning object names by rule.

Packages name their pictures for other purposes ("oncoming automobile", "Sofa 2 seats", "Apple iMac
1998"). A cleaned name is what a person would say when asked what the object is: lower case, no
brand, number or state; a colour is kept apart as an adjective. The same object in different
packages gets the same name. Names of what cannot be cut out as an object give None.
"""

import json
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib import resources

COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
    "grey",
)


@dataclass(frozen=True)
class CleanName:
    """A cleaned name.

    Attributes:
        name: what the object is.
        colour: colour word that the source's name had, or None.
    """

    name: str
    colour: str | None = None


def furniture_name(raw: str, category: str) -> CleanName | None:
    """Name of a furniture catalogue's model.

    Args:
        raw: the catalogue's English name.
        category: the catalogue's category; vehicles with brand names are told by it.

    Returns:
        The cleaned name, or None for markings on the ground, rooms and the like.
    """
    text = raw.lower()
    if _FURNITURE_NO_OBJECT.search(text):
        return None
    for pattern, name in _FURNITURE_RULES:
        if pattern.search(text):
            return CleanName(name)
    return clean(text)


def clean(raw: str) -> CleanName | None:
    """Apply the rules that hold for every source; None when nothing is left.

    Order: parentheses and what follows a dash or comma, numbers, words of state, size and wood,
    then the colour, then the table of common words.
    """
    text = unicodedata.normalize("NFC", raw.lower()).replace("’", "'")
    dropped_words, common = _tables()
    if text in common:
        return CleanName(common[text])
    text = re.sub(r"\(.*?\)", " ", text)
    text = re.split(r"\s+-\s+|,", text)[0]
    words = [word for word in re.split(r"[\s_]+", text) if word]
    words = [word for word in words if not re.fullmatch(r"[\d:.°€%]+|x\d+", word)]
    kept = [word for word in words if word not in dropped_words]
    words = kept or words
    colour = None
    if len(words) > 1 and words[0] in COLOURS and " ".join(words) not in _COLOUR_IN_NAME:
        colour, words = words[0], words[1:]
    name = " ".join(words)
    name = common.get(name, name)
    return CleanName(name, colour) if name else None


@cache
def _tables() -> tuple[frozenset[str], dict[str, str]]:
    """Words of state, size, view and wood; and what the same thing is called elsewhere."""
    text = resources.files("mobius_seg.data").joinpath("common_names.json").read_text("utf-8")
    raw = json.loads(text)
    return frozenset(raw["dropped_words"]), raw["same_thing"]


def head_noun(name: str) -> str:
    """The last word in the singular: "kitchen knives" gives "knife"; relatives share it."""
    text = re.split(r" (?:with|of|and|on|in|without|for) ", name)[0]
    word = text.split()[-1]
    if word in _PLURALS:
        return _PLURALS[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "ches", "shes", "xes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return word[:-1]
    return word


_COLOUR_IN_NAME = frozenset({"white board"})

# No cut-out object: paint on the ground, holes, rooms, holders of a whole table setting.
_FURNITURE_NO_OBJECT = re.compile(
    r"parking slot|^arrow |pedestrian crossing|swimming pool|sidewalk|living room$|island extension"
    r"|^rails$|rail crossing|pedestrian railing|frame "
)

# Brands, poses and number-of-parts names; the first rule that fits gives the name.
_FURNITURE_RULES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"french window", "french window"),
        (r"arched window", "arched window"),
        (r"double(?:-hung)? window|turn window|sliding window", "window"),
        (r"^double door", "double door"),
        (r"chevrolet|ford |peugeot|renault|seat leon|smart car|vw |concept sedan", "car"),
        (r"yamaha", "motorcycle"),
        (r"iphone", "cell phone"),
        (r"ibook", "laptop"),
        (r"imac", "desktop computer"),
        (r"playstation", "game console"),
        (r"rj45 plug", "network socket"),
        (r"antenna plug", "antenna socket"),
        (r"type \w plug|wall socket|double socket|^socket", "wall socket"),
        (r"dimmer switch", "dimmer switch"),
        (r"switch$", "light switch"),
        (r"mp3", "speaker dock"),
        (r"(?:lying|sitting|holding|standing).*\bfemale", "woman"),
        (r"(?:lying|sitting|holding|standing).*\bmale", "man"),
        (r"sitting girl", "girl"),
        (r"lying down boy", "boy"),
        (r"sofa \d seats|clear sofa|burlap sofa", "sofa"),
        (r"induction cooker", "induction cooker"),
        (r"convertible sofa", "sofa bed"),
        (r"air conditioning.*external", "air conditioner outdoor unit"),
        (r"air conditioning", "air conditioner"),
        (r"recycling bin", "recycling bin"),
        (r"plate, glass", "place setting"),
        (r"osaka chair|ryokan chair|relax chair", "lounge chair"),
        (r"winchester armchair|modern armchair", "armchair"),
        (r"winchester sofa", "sofa"),
        (r"captain's bed", "captain's bed"),
        (r"number lock", "combination lock"),
        (r"wood bank|little bank", "garden bench"),
    )
)

_PLURALS = {
    "knives": "knife",
    "leaves": "leaf",
    "shelves": "shelf",
    "mice": "mouse",
    "glasses": "glasses",
    "scissors": "scissors",
    "trousers": "trousers",
    "jeans": "jeans",
    "boxes": "box",
}
