"""Every expression has one right answer: a second, plain reading of the phrase finds it alone."""

import re

import numpy as np
import pytest
from tests.support.shapes import write_shapes_pack

from mobius_seg.data.compose import SceneComposer, scene_rng
from mobius_seg.data.expressions import find_confusable, near_colours
from mobius_seg.data.pack import Pack
from mobius_seg.data.scenes import Scene

COLOURS = "red|orange|yellow|green|blue|purple|pink|brown|black|white|grey"
COLOUR = rf"({COLOURS}) (.+)|(.+) that is ({COLOURS})"
RANKS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4}
PLACES = {
    r"leftmost (.+)|(.+) on the left|(.+) furthest to the left": (1, 0),
    r"rightmost (.+)|(.+) on the right|(.+) furthest to the right": (-1, 0),
    r"topmost (.+)|(.+) at the top|highest (.+)": (0, 1),
    r"lowest (.+)|(.+) at the bottom|bottommost (.+)": (0, -1),
}
SIDES = {
    "left of": (1, 0),
    "right of": (-1, 0),
    "above": (0, 1),
    "below": (0, -1),
    "under": (0, -1),
}


def read(text: str, scene: Scene, names: list[str]) -> set[int]:
    """Objects that a phrase could mean, taken literally and without any margin."""
    text = text.removeprefix("the ").removesuffix(" in the picture")
    boxes = scene.boxes_xyxy.astype(float)
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    area = scene.masks.sum((1, 2))
    side = scene.image.shape[0]

    def group(noun: str) -> list[int]:
        return [i for i, name in enumerate(names) if noun in ("object", name)]

    def least(noun: str, values: np.ndarray) -> set[int]:
        members = group(noun)
        low = min(values[i] for i in members)
        return {i for i in members if values[i] == low}

    if found := re.fullmatch(r"(\w+) (.+) from the (left|right|top|bottom)", text):
        along = x if found[3] in ("left", "right") else y
        ranked = sorted(group(found[2]), key=lambda i: along[i])
        return {(ranked if found[3] in ("left", "top") else ranked[::-1])[RANKS[found[1]]]}
    if found := re.fullmatch(r"(.+) (?:closest|nearest) to the (.+)", text):
        (anchor,) = group(found[2])
        away = np.hypot(x - x[anchor], y - y[anchor])
        away[anchor] = np.inf
        return least(found[1], away)
    if found := re.fullmatch(r"(.+) (behind|in front of) the (.+)", text):
        (anchor,) = group(found[3])
        hides = scene.covers if found[2] == "in front of" else scene.covers.T
        return {i for i in group(found[1]) if hides[i, anchor] > 0}
    if found := re.fullmatch(
        r"(.+?) (?:to the )?(left of|right of|above|below|under) the (.+)", text
    ):
        (anchor,) = group(found[3])
        dx, dy = SIDES[found[2]]
        ahead = (x[anchor] - x) * dx + (y[anchor] - y) * dy
        return {i for i in group(found[1]) if i != anchor and ahead[i] > 0}
    for pattern, (dx, dy) in PLACES.items():
        if found := re.fullmatch(pattern, text):
            return least(next(g for g in found.groups() if g), x * dx + y * dy)
    if found := re.fullmatch(r"(.+) in the (?:middle|centre)", text):
        return least(found[1], np.hypot(x - side / 2, y - side / 2))
    corner = re.fullmatch(r"(.+) in the (top|bottom) (left|right) corner", text)
    if found := corner or re.fullmatch(r"(top|bottom) (left|right) (.+)", text):
        noun, end, edge = found.groups() if corner else (found[3], found[1], found[2])
        return least(noun, np.hypot(x - side * (edge == "right"), y - side * (end == "bottom")))
    if found := re.fullmatch(r"(largest|biggest|smallest|tiniest) (.+)", text):
        return least(found[2], area if found[1] in ("smallest", "tiniest") else -area)
    if found := re.fullmatch(COLOUR, text):
        colour, noun = (found[1], found[2]) if found[1] else (found[4], found[3])
        return {i for i in group(noun) if scene.colours[i] == colour}
    return set(group(text))


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    path = tmp_path_factory.mktemp("pack") / "shapes.safetensors"
    return Pack.open(write_shapes_pack(path))


def test_every_expression_means_one_object(pack: Pack) -> None:
    composer = SceneComposer(pack, "train", 256)
    kinds: dict[str, int] = {}
    for index in range(250):
        scene = composer.compose(scene_rng(11, index), expressions=True)
        names = [pack.names[i] for i in scene.name_ids]
        for expression in scene.expressions:
            assert read(expression.text, scene, names) == {expression.instance}, expression.text
            kinds[expression.kind] = kinds.get(expression.kind, 0) + 1
            assert scene.visible_shares[expression.instance] >= 0.4
    assert set(kinds) == {"name", "place", "size", "colour", "relation", "ordinal"}
    assert min(kinds.values()) >= 10


def test_names_that_could_be_mixed_up() -> None:
    names = ["glass", "wine glass", "cup", "mug", "spoon"]
    vectors = np.eye(5, dtype=np.float32)
    vectors[3, 2:4] = 0.8, 0.6  # the mug is close to the cup
    found = find_confusable(names, vectors, np.arange(5))
    assert found == {
        0: {0, 1},
        1: {0, 1},
        2: {2, 3},
        3: {2, 3},
        4: {4},
    }


def test_similar_colours_are_not_told_apart() -> None:
    assert near_colours("red", "orange")
    assert near_colours("grey", "white")
    assert not near_colours("red", "blue")
