"""Cleaning names by rule, and the split of the names."""

import numpy as np
import pytest

from mobius_seg.data.emoji_names import emoji_name
from mobius_seg.data.names import CleanName, clean, furniture_name, head_noun
from mobius_seg.data.split import choose_novel, coco_names, group_names, read_split


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("🚘", "car"),  # oncoming automobile
        ("🐶", "dog"),  # dog face
        ("🐪", "camel"),
        ("🍆", "eggplant"),
        ("🏹", "bow and arrow"),
        ("☎", "telephone"),  # black telephone: black means filled
        ("🪭", "hand fan"),  # Unicode 15
        ("🐻\u200d❄", "polar bear"),
        ("📚", "stack of books"),
    ],
)
def test_emoji_objects(character: str, name: str) -> None:
    assert emoji_name(tuple(map(ord, character))) == CleanName(name)


def test_emoji_colour_is_kept_apart() -> None:
    assert emoji_name((ord("📘"),)) == CleanName("book", "blue")


@pytest.mark.parametrize(
    "character",
    [
        "😀",
        "👍",
        "👍🏽",
        "🇫🇷",
        "1⃣",
        "🕐",
        "♈",
        "⬅",
        "🔴",
        "🔀",
        "👨\u200d👩\u200d👧",
        "🌃",
        "🈁",
        "©",
    ],
)
def test_emoji_that_are_no_object(character: str) -> None:
    assert emoji_name(tuple(map(ord, character))) is None


@pytest.mark.parametrize(
    ("raw", "category", "name"),
    [
        ("Chair 3", "Office", "chair"),
        ("Sofa 2 seats", "Living room", "sofa"),
        ("Apple iMac 1998", "Office", "desktop computer"),
        ("Peugeot 308 CC", "Vehicles", "car"),
        ("Double French window 3 panes", "Doors and windows", "french window"),
        ("Small lavatory", "Bathroom", "washbasin"),
        ("Bill 10€", "Miscellaneous", "banknote"),
        ("Lying down female", "Characters", "woman"),
        ("Air conditioning - External unit", "Exterior", "air conditioner outdoor unit"),
    ],
)
def test_furniture(raw: str, category: str, name: str) -> None:
    assert furniture_name(raw, category) == CleanName(name)


@pytest.mark.parametrize("raw", ["Parking slot 45°", "Pedestrian crossing", "Swimming pool"])
def test_furniture_that_is_no_object(raw: str) -> None:
    assert furniture_name(raw, "Exterior") is None


def test_clean_general_rules() -> None:
    assert clean("Red Wheelbarrow (large)") == CleanName("wheelbarrow", "red")
    assert clean("white") == CleanName("white")
    assert clean("  ") is None
    assert clean("White board") == CleanName("whiteboard")


@pytest.mark.parametrize(
    ("name", "noun"),
    [
        ("desk lamp", "lamp"),
        ("kitchen knives", "knife"),
        ("cherries", "cherry"),
        ("glass of milk", "glass"),
        ("boxes", "box"),
        ("octopus", "octopus"),
        ("bus", "bus"),
    ],
)
def test_head_noun(name: str, noun: str) -> None:
    assert head_noun(name) == noun


def test_near_names_share_a_group() -> None:
    names = ["desk lamp", "fox", "floor lamp", "wolf", "coyote"]
    vectors = np.eye(5, dtype=np.float32)
    vectors[3] = [0, 0.8, 0, 0.6, 0]  # near the fox
    vectors[4] = [0, 0.1, 0, 0.9, 0.42]  # far from the fox (0.1), 0.62 from the wolf
    assert group_names(names, vectors, near=0.7) == [
        ["desk lamp", "floor lamp"],
        ["fox", "wolf"],
        ["coyote"],
    ]
    assert group_names(names, vectors, near=0.6)[1] == ["fox", "wolf", "coyote"]


def test_novel_choice_keeps_groups_kinds_and_exceptions() -> None:
    groups = [[f"drawn {i}"] for i in range(40)] + [[f"made {i}", f"mode {i}"] for i in range(20)]
    kinds = {n: "drawn" if n.startswith("drawn") else "rendered" for g in groups for n in g}
    novel = choose_novel(groups, kinds, count=20, never=["made 3", "drawn 5"])
    assert novel == choose_novel(groups, kinds, count=20, never=["made 3", "drawn 5"])
    assert 20 <= len(novel) <= 21
    assert sum(kinds[name] == "rendered" for name in novel) == 10
    assert not {"made 3", "mode 3", "drawn 5"} & set(novel)
    assert all(len(set(g) & set(novel)) in (0, len(g)) for g in groups)


def test_stored_split() -> None:
    split = read_split()
    sides = list(split.values())
    assert sides.count("base") >= 1000
    assert sides.count("novel") >= 150
    assert all(split.get(name, "base") == "base" for name in coco_names())
    assert len(coco_names()) == 80
    for name in split:  # a cleaned name is clean
        assert name == name.lower().strip()
        assert not any(character.isdigit() for character in name)
    by_noun: dict[str, set[str]] = {}
    for name, side in split.items():
        by_noun.setdefault(head_noun(name), set()).add(side)
    assert all(len(found) == 1 for found in by_noun.values())
