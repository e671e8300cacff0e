"""Prediction as a user calls it."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from tests.support.models import HashEncoder, lively_network

import mobius_seg
from mobius_seg import InputError, Instances, Predictor

Picture = NDArray[np.uint8]


def _same(first: Instances, second: Instances, tolerance: float = 1e-4) -> None:
    """Equal but for rounding; masks may differ in a few pixels of their edge."""
    assert first.image_size == second.image_size
    assert first.names == second.names
    assert np.abs(first.scores - second.scores).max(initial=0) <= tolerance
    size = max(first.image_size)
    assert np.abs(first.boxes_xyxy - second.boxes_xyxy).max(initial=0) <= tolerance * size
    for a, b in zip(first.masks, second.masks, strict=True):
        assert (a != b).mean() <= 1e-3


def _pictures() -> list[Picture]:
    rng = np.random.default_rng(0)
    sizes = [(48, 80), (80, 48), (1, 70), (70, 1), (64, 64), (50, 78), (33, 33), (48, 80)]
    small = [rng.integers(0, 256, (5, 5, 3), dtype=np.uint8) for _ in sizes]
    pairs = zip(small, sizes, strict=True)
    return [np.asarray(Image.fromarray(s).resize(size[::-1])) for s, size in pairs]


def test_names(predictor: Predictor, photo: Picture) -> None:
    found = predictor.predict(photo, names=["cup", "dog"], threshold=0.0)
    assert 0 < len(found) <= 12
    assert found.image_size == (48, 80)
    assert found.masks.shape == (len(found), 48, 80)
    assert found.masks.any((1, 2)).all()
    assert set(found.names) <= {"cup", "dog"}
    assert [["cup", "dog"][i] for i in found.name_ids] == found.names
    assert (np.diff(found.scores) <= 0).all()
    x0, y0, x1, y1 = found.boxes_xyxy.T
    assert (x0 >= 0).all()
    assert (y0 >= 0).all()
    assert (x1 <= 80).all()
    assert (y1 <= 48).all()
    assert (x1 > x0).all()
    assert (y1 > y0).all()


def test_expression_and_everything(predictor: Predictor, photo: Picture) -> None:
    expression = predictor.predict(photo, expression=" the left cup", threshold=0.0)
    assert set(expression.names) == {" the left cup"}
    everything = predictor.predict(photo, threshold=0.0)
    assert set(everything.names) == {"object"}
    assert everything.name_ids.tolist() == [0] * len(everything)


def test_no_names_need_no_network(predictor: Predictor, photo: Picture) -> None:
    found = predictor.predict(photo, names=[])
    assert len(found) == 0
    assert found.image_size == (48, 80)
    assert [len(f) for f in predictor.predict([photo] * 3, names=[])] == [0, 0, 0]
    with pytest.raises(InputError, match="no such file"):
        predictor.predict("missing.png", names=[])


@pytest.mark.parametrize("prompt", ["names", "expression", "everything"])
def test_batch_equals_singles(predictor: Predictor, prompt: str) -> None:
    pictures = _pictures()
    asked: dict[str, Any] = {
        "names": {"names": ["cup", "dog", "tree"]},
        "expression": {"expression": "the dog left of the tree"},
        "everything": {},
    }[prompt]
    together = predictor.predict(pictures, threshold=0.0, batch_size=3, **asked)
    assert len(together) == len(pictures)
    for picture, found in zip(pictures, together, strict=True):
        assert len(found) > 0
        _same(found, predictor.predict(picture, threshold=0.0, **asked))


def test_mixed_prompts_in_one_batch(predictor: Predictor) -> None:
    pictures = _pictures()
    names = [
        ["cup"],
        ["dog", "cup", "tree"],
        [],
        ["a"] * 3,
        ["x" * 500],
        ["b", " b"],
        ["c"],
        ["🐱"],
    ]
    together = predictor.predict(pictures, names=names, threshold=0.0)
    for picture, own, found in zip(pictures, names, together, strict=True):
        _same(found, predictor.predict(picture, names=own, threshold=0.0))
    texts = [f"the {'very ' * i}old cup" for i in range(len(pictures))]
    together = predictor.predict(pictures, expression=texts, threshold=0.0)
    for picture, text, found in zip(pictures, texts, together, strict=True):
        _same(found, predictor.predict(picture, expression=text, threshold=0.0))


def test_every_kind_of_picture(predictor: Predictor, photo: Picture, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    Image.fromarray(photo).save(file)
    expected = predictor.predict(photo, names=["cup"], threshold=0.0)
    tensor = torch.from_numpy(photo).permute(2, 0, 1)
    sources: list[Any] = [file, str(file), file.read_bytes(), Image.open(file), tensor]
    sources += [tensor.float() / 255, photo / 255.0]
    for source in sources:
        _same(predictor.predict(source, names=["cup"], threshold=0.0), expected)
    for found in predictor.predict(sources, names=["cup"], threshold=0.0):
        _same(found, expected)
    batch = torch.stack([tensor, tensor])
    for found in predictor.predict(batch, names=["cup"], threshold=0.0):
        _same(found, expected)
    assert predictor.predict([], names=["cup"]) == []


def test_exif_sizes(predictor: Predictor, photo: Picture) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", exif=exif)
    assert predictor.predict(buffer.getvalue(), threshold=0.0).image_size == (80, 48)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200))
def test_masks_have_the_original_size(height: int, width: int) -> None:
    shared = _shared_predictor()
    found = shared.predict(np.zeros((height, width, 3), np.uint8), threshold=0.0)
    assert found.masks.shape[1:] == (height, width)
    assert all(rle["size"] == [height, width] for rle in found.rles)


_cached: list[Predictor] = []


def _shared_predictor() -> Predictor:
    """hypothesis does not mix with fixtures of function scope, nor needs a new model a case."""
    if not _cached:
        _cached.append(Predictor(lively_network(), text_encoder=HashEncoder(), device="cpu"))
    return _cached[0]


@pytest.mark.parametrize("size", [(3000, 4000), (1, 4000), (4000, 1), (1, 1)])
def test_extreme_sizes(predictor: Predictor, size: tuple[int, int]) -> None:
    picture = np.zeros((*size, 3), np.uint8)
    picture[: size[0] // 2] = 255
    found = predictor.predict(picture, names=["cup"], threshold=0.0, max_instances=2)
    assert found.masks.shape == (len(found), *size)


def test_input_size(predictor: Predictor, photo: Picture) -> None:
    for size in (32, 96, 100):
        found = predictor.predict(photo, names=["cup"], size=size, threshold=0.0)
        assert found.image_size == (48, 80)


def test_names_per_instance(predictor: Predictor, photo: Picture) -> None:
    names = ["cup", "spoon", "dog"]
    one = predictor.predict(photo, names=names, threshold=0.0)
    three = predictor.predict(photo, names=names, threshold=0.0, names_per_instance=3)
    assert one.instance_ids.tolist() == list(range(len(one)))
    assert len(three) == 3 * len(one)
    assert (np.diff(three.scores) <= 0).all()
    best = [int(np.flatnonzero(three.instance_ids == i)[0]) for i in one.instance_ids]
    assert three[best].names == one.names
    assert three[best].rles == one.rles
    for i in one.instance_ids:
        same = three[three.instance_ids == i]
        assert sorted(same.names) == sorted(names)
        assert all(rle == one.rles[i] for rle in same.rles)


def test_nms_iou(predictor: Predictor, photo: Picture) -> None:
    every = predictor.predict(photo, threshold=0.0, nms_iou=1.0)
    overlap = np.asarray(coco_mask.iou(every.rles, every.rles, [0] * len(every)))
    most = float((overlap - np.eye(len(every))).max())
    assert most > 0
    apart = predictor.predict(photo, threshold=0.0, nms_iou=most)
    assert 0 < len(apart) < len(every)
    assert every.rles[0] in apart.rles
    last = list(predictor.stream(photo, threshold=0.0, nms_iou=most))[-1]
    assert last.rles == apart.rles
    limit = predictor.config.nms_iou
    own = predictor.predict(photo, threshold=0.0)
    assert own.rles == predictor.predict(photo, threshold=0.0, nms_iou=limit).rles


def test_boxes_bound_their_masks(predictor: Predictor, photo: Picture) -> None:
    found = predictor.predict(photo, threshold=0.0)
    assert len(found)
    for mask, (x0, y0, x1, y1) in zip(found.masks, found.boxes_xyxy, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert (x0, x1) == (columns[0], columns[-1] + 1)
        assert (y0, y1) == (rows[0], rows[-1] + 1)


def test_duplicates_take_no_place(predictor: Predictor, photo: Picture) -> None:
    every = predictor.predict(photo, threshold=0.0, nms_iou=0.3)
    for most in range(1, len(every) + 1):
        some = predictor.predict(photo, threshold=0.0, nms_iou=0.3, max_instances=most)
        assert some.rles == every.rles[:most]


def test_threshold_and_limit(predictor: Predictor, photo: Picture) -> None:
    every = predictor.predict(photo, names=["cup"], threshold=0.0)
    middle = float(every.scores[3])
    assert len(predictor.predict(photo, names=["cup"], threshold=middle)) == 4
    assert len(predictor.predict(photo, names=["cup"], threshold=0.0, max_instances=2)) == 2
    assert len(predictor.predict(photo, names=["cup"], threshold=1.0)) == 0


@pytest.mark.parametrize(
    "names",
    [
        ["cup"],
        ["cup"] * 50,
        ["cup", " cup", "cup "],
        ["🐱", "👩‍👩‍👧‍👦"],
        ["שלום", "مرحبا", "\u202ecup"],
        ["x" * 10_000],
        [f"name {i}" for i in range(2000)],
        ["[red]", "%s", "{0}", "\x1b[31m", "a\0b", "a,b"],
    ],
    ids=["one", "fifty", "spaces", "emoji", "right to left", "long", "2000", "odd"],
)
def test_names_that_must_not_crash(
    predictor: Predictor, photo: Picture, names: Sequence[str]
) -> None:
    found = predictor.predict(photo, names=names, threshold=0.0)
    assert len(found) > 0
    assert set(found.names) <= set(names)
    found.plot()


def test_duplicates_count_once(photo: Picture) -> None:
    encoder = HashEncoder()
    predictor = Predictor(lively_network(), text_encoder=encoder, device="cpu")
    found = predictor.predict(photo, names=["dog ", "cup", "dog", "cup"], threshold=0.0)
    assert encoder.encoded == ["dog", "cup"]
    assert set(found.names) <= {"dog ", "cup"}
    assert set(found.name_ids) <= {0, 1}
    _same(found, predictor.predict(photo, names=["dog ", "cup"], threshold=0.0))


def test_order_of_names_does_not_matter(predictor: Predictor, photo: Picture) -> None:
    names = ["cup", "dog", "tree", "car"]
    forwards = predictor.predict(photo, names=names, threshold=0.0)
    _same(forwards, predictor.predict(photo, names=names[::-1], threshold=0.0))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "both": ({"names": ["a"], "expression": "b"}, "cannot both be given"),
    "string": ({"names": "cup"}, "names must be a list of strings, got 'cup'"),
    "number": ({"names": 3}, "names must be a list"),
    "blank name": ({"names": ["cup", " "]}, "names[1] is blank"),
    "no string": ({"names": ["cup", 3]}, "names[1]: text must be a string"),
    "surrogate": ({"names": ["\ud800"]}, "names[0]: text"),
    "nested for one": ({"names": [["cup"]]}, "one list of strings for each picture"),
    "blank expression": ({"expression": "\t"}, "expression is blank"),
    "expressions for one": ({"expression": ["a"]}, "expression must be a string"),
    "threshold 1.1": ({"threshold": 1.1}, "threshold is 1.1; allowed: 0 to 1"),
    "threshold nan": ({"threshold": float("nan")}, "threshold is nan"),
    "threshold text": ({"threshold": "0.3"}, "threshold is '0.3'"),
    "threshold none": ({"threshold": None}, "threshold is None"),
    "threshold huge": ({"threshold": 10**400}, "threshold is 1000"),
    "size 0": ({"size": 0}, "size is 0; allowed"),
    "size float": ({"size": 64.0}, "size is 64.0; allowed"),
    "size huge": ({"size": 10**9}, "size is 1000000000; allowed"),
    "no instances": ({"max_instances": 0}, "max_instances is 0; allowed"),
    "too many instances": ({"max_instances": 10**30}, "max_instances is 1000"),
    "no names each": ({"names_per_instance": 0}, "names_per_instance is 0; allowed"),
    "nms": ({"nms_iou": 1.5}, "nms_iou is 1.5; allowed: 0 to 1"),
    "no batch": ({"batch_size": 0}, "batch_size is 0; allowed"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(predictor: Predictor, photo: Picture, name: str) -> None:
    arguments, words = BAD[name]
    with pytest.raises(InputError) as caught:
        predictor.predict(photo, **arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_lists(predictor: Predictor, photo: Picture) -> None:
    with pytest.raises(InputError, match="names has 1 entries for 2 pictures"):
        predictor.predict([photo, photo], names=[["cup"]])
    with pytest.raises(InputError, match="one list of strings for each"):
        predictor.predict([photo, photo], names=["cup", ["dog"]])
    with pytest.raises(InputError, match="expression has 3 entries for 2 pictures"):
        predictor.predict([photo, photo], expression=["a", "b", "c"])
    with pytest.raises(InputError, match=r"image 1 \(missing\.png\): no such file"):
        predictor.predict([photo, "missing.png"], names=["cup"])


def test_plot_reads_the_picture_again(predictor: Predictor, photo: Picture, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    Image.fromarray(photo).save(file)
    found = predictor.predict(file, threshold=0.0)
    assert found.plot().size == (80, 48)


def test_loading(model_folder: Path, photo: Picture) -> None:
    predictor = mobius_seg.load(model_folder, device="cpu", text_encoder=HashEncoder())
    assert predictor.config.name == "mobius-test"
    assert not predictor.network.training
    found = predictor.predict(photo, names=["cup"], threshold=0.0)
    direct = Predictor(lively_network(), text_encoder=HashEncoder(), device="cpu")
    _same(found, direct.predict(photo, names=["cup"], threshold=0.0), tolerance=0.0)
    with pytest.raises(InputError, match="device 'nonsense' cannot be used"):
        mobius_seg.load(model_folder, device="nonsense")


def test_encoder_of_another_width_is_refused() -> None:
    encoder = HashEncoder()
    encoder.dim = 512  # type: ignore[misc]
    with pytest.raises(InputError, match="gives 512 values a text, but model 'mobius-test' reads"):
        Predictor(lively_network(), text_encoder=encoder)


def test_another_encoder_of_the_same_width_is_warned_about() -> None:
    encoder = HashEncoder()
    encoder.identity = "another"
    with pytest.warns(UserWarning, match="was made with text encoder 'sha256', not 'another'"):
        Predictor(lively_network(), text_encoder=encoder, device="cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:model 'mobius-test' was made with")
def test_the_default_encoder_end_to_end(model_folder: Path, photo: Picture) -> None:
    predictor = mobius_seg.load(model_folder, device="cpu")
    found = predictor.predict(photo, names=["cat", "a thing nobody named before"], threshold=0.0)
    assert len(found) > 0
    assert len(predictor.predict(photo, expression="the cat on the left", threshold=0.0)) > 0
