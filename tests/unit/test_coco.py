"""The COCO reader refuses what is malformed, by entry, and reads what is not."""

import copy
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from mobius_seg.data.coco import CocoSamples, read_coco
from mobius_seg.data.referring import default_expressions_path, read_expressions
from mobius_seg.data.rle import check_runs, decode_counts, decode_mask, encode_counts, read_rle
from mobius_seg.data.sample import Vocabulary, collate
from mobius_seg.errors import InputError

Data = dict[str, Any]
HEIGHT, WIDTH = 8, 10


def valid() -> Data:
    """Two pictures, sparse ids, a polygon, an uncompressed crowd and a compressed mask."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[2:5, 3:9] = 1
    packed = coco_mask.encode(mask)["counts"].decode()
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
            {"id": 70, "file_name": "sub/b.png", "height": HEIGHT, "width": WIDTH},
        ],
        "annotations": [
            {
                "id": 0,
                "image_id": 7,
                "category_id": 90,
                "bbox": [1, 1, 4, 3.5],
                "segmentation": [[1, 1, 5, 1, 5, 4.5, 1, 4.5]],
                "area": 14,
                "iscrowd": 0,
            },
            {
                "id": 42,
                "image_id": 70,
                "category_id": 3,
                "bbox": [0, 0, 10, 8],
                "segmentation": {"size": [HEIGHT, WIDTH], "counts": [10, 20, 50]},
                "iscrowd": 1,
            },
            {
                "id": 43,
                "image_id": 70,
                "category_id": 3,
                "bbox": [3, 2, 6, 3],
                "segmentation": {"size": [HEIGHT, WIDTH], "counts": packed},
            },
        ],
        "categories": [{"id": 90, "name": "cup"}, {"id": 3, "name": " tea spoon "}],
    }


def write(folder: Path, data: object) -> Path:
    path = folder / "annotations.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def refusal(path: Path, read: Callable[[Path], object] = read_coco) -> str:
    """The message of the refusal, which is one line that names the file."""
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert len(message) < len(str(path)) + 300
    return message.removeprefix(str(path))


def test_reads_a_valid_file(tmp_path: Path) -> None:
    coco = read_coco(write(tmp_path, valid()))
    assert coco.names == ("cup", "tea spoon")
    assert coco.categories == {90: 0, 3: 1}
    assert [i.id for i in coco.images] == [7, 70]
    assert coco.by_image == [[0], [1, 2]]
    assert [a.name for a in coco.annotations] == [0, 1, 1]
    assert [a.crowd for a in coco.annotations] == [False, True, False]
    assert [a.area for a in coco.annotations] == [14.0, None, None]
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[2:5, 3:9] = True
    mask = coco.mask(2)
    assert mask is not None
    assert (mask == expected).all()
    crowd = coco.mask(1)
    assert crowd is not None
    assert crowd.T.ravel().nonzero()[0].tolist() == list(range(10, 30))
    polygon = coco.mask(0)
    assert polygon is not None
    assert 10 <= polygon.sum() <= 20


def test_categories_of_equal_name_are_one(tmp_path: Path) -> None:
    data = valid()
    data["categories"].append({"id": 5, "name": "cup"})
    coco = read_coco(write(tmp_path, data))
    assert coco.names == ("cup", "tea spoon")
    assert coco.categories == {90: 0, 3: 1, 5: 0}


def test_no_annotations_and_boxes_only_are_fine(tmp_path: Path) -> None:
    data = valid()
    data["annotations"][0]["segmentation"] = []
    del data["annotations"][2]["segmentation"]
    coco = read_coco(write(tmp_path, data))
    assert coco.mask(0) is None
    assert coco.mask(2) is None
    data["annotations"] = []
    assert read_coco(write(tmp_path, data)).annotations == ()


def test_byte_order_mark_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(valid()).encode())
    assert len(read_coco(path).images) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ('{"images": [1,]}', "line 1, column"),
        ("[]", "a list; allowed: a JSON object"),
        ("3", "a number; allowed: a JSON object"),
        ("null", "null; allowed"),
        ("{}", "`images` is missing"),
        ("[" * 100_000, "not JSON"),
        ("9" * 10_000, "not JSON"),
    ],
)
def test_not_a_json_object(tmp_path: Path, text: str, says: str) -> None:
    assert says in refusal(write(tmp_path, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such annotation file" in refusal(tmp_path / "none.json")
    assert "cannot read" in refusal(tmp_path)
    binary = tmp_path / "a.json"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    assert "not UTF-8" in refusal(binary)


RLE = {"size": [HEIGHT, WIDTH], "counts": [80]}
NAN, INF = float("nan"), float("inf")
# Where, the value put there (... removes it), and what the message says.
MALFORMED: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("images",), ..., "`images` is missing"),
    (("annotations",), ..., "`annotations` is missing"),
    (("categories",), ..., "`categories` is missing"),
    (("images",), {}, "`images` is an object; allowed: a list"),
    (("annotations",), None, "`annotations` is null"),
    (("categories",), "cup", "`categories` is a text"),
    (("images",), [], "`images` is empty"),
    (("categories",), [], "`categories` is empty"),
    (("images", 0), 7, "images[0]: is a number; allowed: an object"),
    (("annotations", 1), [], "annotations[1]: is a list"),
    (("categories", 0), None, "categories[0]: is null"),
    (("images", 1, "id"), 7, "images[1] (id 7): `id` 7 was used before"),
    (("annotations", 2, "id"), 42, "annotations[2] (id 42): `id` 42 was used before"),
    (("categories", 1, "id"), 90, "categories[1] (id 90): `id` 90 was used before"),
    (("images", 1, "id"), ..., "images[1]: `id` is missing"),
    (("images", 1, "id"), "7", "`id` is '7'; allowed: a whole number"),
    (("annotations", 0, "id"), True, "`id` is True"),
    (("annotations", 0, "id"), 1.0, "`id` is 1.0"),
    (("images", 0, "height"), 0, "`height` is 0; allowed: a whole number of at least 1"),
    (("images", 0, "width"), 10.0, "`width` is 10.0"),
    (("images", 0, "width"), ..., "`width` is missing"),
    (("images", 0, "width"), 10**9, "allowed: 536870911 pixels"),
    (("images", 0, "file_name"), ..., "`file_name` is missing"),
    (("images", 0, "file_name"), "", "`file_name` is ''"),
    (("images", 0, "neg_category_ids"), [4], "`neg_category_ids` 4 is unknown"),
    (("images", 0, "neg_category_ids"), 4, "`neg_category_ids` is a number"),
    (("categories", 0, "name"), ..., "`name` is missing"),
    (("categories", 0, "name"), " \n", "allowed: a text that is not blank"),
    (("categories", 0, "name"), 4, "`name` is 4"),
    (("annotations", 0, "image_id"), 8, "(id 0): `image_id` 8 is unknown; allowed: an id in"),
    (("annotations", 0, "image_id"), ..., "`image_id` is missing"),
    (("annotations", 0, "category_id"), 1, "`category_id` 1 is unknown"),
    (("annotations", 0, "category_id"), [90], "`category_id` is [90]"),
    (("annotations", 0, "bbox"), ..., "`bbox` is missing"),
    (("annotations", 0, "bbox"), [1, 2, 3], "`bbox` is [1, 2, 3]; allowed: four finite numbers"),
    (("annotations", 0, "bbox"), [1, 2, 3, "4"], "four finite numbers"),
    (("annotations", 0, "bbox"), [1, 2, 3, True], "four finite numbers"),
    (("annotations", 0, "bbox"), [1, 2, 3, NAN], "`bbox` is [1, 2, 3, nan]"),
    (("annotations", 0, "bbox"), [INF, 2, 3, 4], "four finite numbers"),
    (("annotations", 0, "bbox"), [10**400, 2, 3, 4], "four finite numbers"),
    (("annotations", 0, "bbox"), {"x": 1}, "four finite numbers"),
    (("annotations", 0, "bbox"), [1, 2, -3, 4], "width and height of at least 0"),
    (("annotations", 0, "bbox"), [1, 2, 3, 4000], "has the coordinate 4002; allowed: -10 to 20"),
    (("annotations", 0, "area"), NAN, "`area` is nan"),
    (("annotations", 0, "area"), -1, "`area` is -1"),
    (("annotations", 0, "area"), "big", "`area` is 'big'"),
    (("annotations", 0, "area"), 10**400, "`area` is 1000"),
    (("annotations", 0, "id"), 10**400, "`id` is 1000"),
    (("annotations", 0, "iscrowd"), 2, "`iscrowd` is 2; allowed: 0 or 1"),
    (("annotations", 0, "iscrowd"), None, "`iscrowd` is None"),
    (("annotations", 0, "iscrowd"), "0", "`iscrowd` is '0'"),
    (("annotations", 0, "segmentation"), "x", "`segmentation` is a text; allowed: a list of"),
    (("annotations", 0, "segmentation"), 3, "`segmentation` is a number"),
    (("annotations", 0, "segmentation"), [1, 1, 5, 1, 5, 4], "`segmentation[0]` is a number"),
    (("annotations", 0, "segmentation"), [[]], "polygon of 0 numbers; allowed: six or more"),
    (("annotations", 0, "segmentation"), [[1, 1, 5, 5]], "polygon of 4 numbers"),
    (("annotations", 0, "segmentation"), [[1] * 6, [1] * 7], "`segmentation[1]` is a polygon of 7"),
    (("annotations", 0, "segmentation"), [[1, 1, 5, 1, 5, NAN]], "not a finite number"),
    (("annotations", 0, "segmentation"), [[1, 1, 5, 1, 5, None]], "not a finite number"),
    (("annotations", 0, "segmentation"), [[1, 1, 5, 1, 5, "4"]], "not a finite number"),
    (("annotations", 0, "segmentation"), [[1, 1, 5, 1, 5, 1e9]], "has the coordinate 1e+09"),
    (("annotations", 0, "segmentation"), {}, "an RLE needs `size` and `counts`"),
    (("annotations", 0, "segmentation"), RLE | {"size": [WIDTH, HEIGHT]}, "the picture's [height"),
    (("annotations", 0, "segmentation"), RLE | {"size": [8]}, "RLE `size` is [8]; allowed"),
    (("annotations", 0, "segmentation"), RLE | {"size": [8.0, 10]}, "RLE `size` is [8.0, 10]"),
    (("annotations", 0, "segmentation"), RLE | {"size": None}, "RLE `size` is None"),
    (("annotations", 0, "segmentation"), RLE | {"counts": [40, 41]}, "runs of the RLE sum to 81"),
    (
        ("annotations", 0, "segmentation"),
        RLE | {"counts": [79]},
        "allowed: height x width = 8 x 10",
    ),
    (("annotations", 0, "segmentation"), RLE | {"counts": []}, "runs of the RLE sum to 0"),
    (("annotations", 0, "segmentation"), RLE | {"counts": [-1, 81]}, "run 0 of the RLE is -1"),
    (("annotations", 0, "segmentation"), RLE | {"counts": [2**70]}, "longer than any picture"),
    (("annotations", 0, "segmentation"), RLE | {"counts": [80.0]}, "RLE `counts` are of a wrong"),
    (("annotations", 0, "segmentation"), RLE | {"counts": None}, "RLE `counts` are of a wrong"),
    (("annotations", 0, "segmentation"), RLE | {"counts": ""}, "runs of the RLE sum to 0"),
    (("annotations", 0, "segmentation"), RLE | {"counts": "é"}, "character 0 of the compressed"),
    (("annotations", 0, "segmentation"), RLE | {"counts": "\ud800"}, "character 0"),
    (("annotations", 0, "segmentation"), RLE | {"counts": "`2 "}, "character 2 of the compressed"),
    (("annotations", 0, "segmentation"), RLE | {"counts": "`"}, "middle of a number"),
    (("annotations", 0, "segmentation"), RLE | {"counts": "ooooooooo0"}, "longer than any picture"),
    (("annotations", 0, "segmentation"), RLE | {"counts": "T2"}, "the runs of the RLE"),
    (("annotations", 0, "segmentation"), RLE | {"counts": "@"}, "run 0 of the RLE is -16"),
    (("annotations", 0, "segmentation"), RLE | {"counts": "oooooN"}, "run 0 of the RLE is"),
]


@pytest.mark.parametrize(
    ("where", "value", "says"), MALFORMED, ids=[f"{i}" for i in range(len(MALFORMED))]
)
def test_malformed_entries(
    tmp_path: Path, where: tuple[str | int, ...], value: Any, says: str
) -> None:
    data = valid()
    target: Any = data
    for key in where[:-1]:
        target = target[key]
    if value is ...:
        del target[where[-1]]
    else:
        target[where[-1]] = copy.deepcopy(value)
    message = refusal(write(tmp_path, data))
    assert says in message
    if len(where) > 1:
        assert f"{where[0]}[{where[1]}]" in message


masks = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).random((7, 9)) < seed % 97 / 96
)


@given(masks)
@settings(max_examples=150, deadline=None)
def test_runs_agree_with_the_coco_api(mask: np.ndarray) -> None:
    packed = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]
    runs = check_runs(decode_counts(packed), 7, 9)
    assert encode_counts(runs) == packed
    assert (decode_mask(packed, 7, 9) == mask).all()
    assert read_rle({"size": [7, 9], "counts": packed.decode()}, 7, 9) == packed
    assert read_rle({"size": [7, 9], "counts": runs.tolist()}, 7, 9) == packed


@given(st.lists(st.integers(0, 2**29 - 1), max_size=40))
@settings(max_examples=150, deadline=None)
def test_counts_survive_packing(runs: list[int]) -> None:
    assert decode_counts(encode_counts(runs)).tolist() == runs


@given(st.lists(st.integers(0, 6), max_size=30))
@settings(max_examples=150, deadline=None)
def test_empty_runs_are_merged(parts: list[int]) -> None:
    if not sum(parts):
        return
    values = np.repeat(np.arange(len(parts)) % 2 == 1, parts)
    runs = check_runs(np.array(parts, np.int64), sum(parts), 1)
    assert (runs[1:] > 0).all()
    assert (decode_mask(encode_counts(runs), sum(parts), 1)[:, 0] == values).all()


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30) | st.text())
@settings(max_examples=400, deadline=None)
def test_any_text_is_refused_or_a_mask(counts: str) -> None:
    rle = {"size": [3, 4], "counts": counts}
    try:
        packed = read_rle(rle, 3, 4)
    except InputError:
        return
    ours = decode_mask(packed, 3, 4)
    theirs = coco_mask.decode({"size": [3, 4], "counts": packed})
    assert (ours == theirs).all()


@given(masks, st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_counts_never_reach_the_coco_api(mask: np.ndarray, data: st.DataObject) -> None:
    packed = bytearray(coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"])
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] = data.draw(st.integers(0, 255))
    try:
        safe = read_rle({"size": [7, 9], "counts": bytes(packed)}, 7, 9)
    except InputError:
        return
    assert check_runs(decode_counts(safe), 7, 9).sum() == 63


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    Image.fromarray(noise).save(tmp_path / "sub" / "b.png")
    return tmp_path


def test_samples(pictures: Path) -> None:
    samples = CocoSamples(write(pictures, valid()), pictures)
    assert len(samples) == 2
    assert samples.names == ("cup", "tea spoon")
    first, second = pickle.loads(pickle.dumps(samples))[0], samples[1]
    assert first.names == ("cup",)
    assert first.exhaustive
    assert first.image.shape == (3, HEIGHT, WIDTH)
    assert first.image.dtype == torch.uint8
    assert first.boxes_xyxy.tolist() == [[1, 1, 5, 4.5]]
    assert second.names == ("tea spoon",)  # the crowd is left out
    assert second.masks is not None
    assert second.masks.dtype == torch.bool
    assert second.masks.nonzero()[:, 1:].min(0).values.tolist() == [2, 3]
    assert int(second.masks.sum()) == 18
    with pytest.raises(IndexError):
        samples[2]


@pytest.mark.parametrize("size", [5, 20, 33])
def test_samples_of_one_size(pictures: Path, size: int) -> None:
    sample = CocoSamples(write(pictures, valid()), pictures, size=size)[1]
    scale = size / WIDTH
    assert sample.image.shape == (3, size, size)
    assert (sample.image[:, round(HEIGHT * scale) :] == 114).all()
    assert sample.masks is not None
    assert sample.masks.shape == (1, size, size)
    assert torch.allclose(sample.boxes_xyxy[0], torch.tensor([3, 2, 9, 5]) * scale, atol=0.6)
    ys, xs = sample.masks[0].nonzero().T
    box = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    assert torch.allclose(box.float(), sample.boxes_xyxy[0], atol=1.0)


def test_samples_make_a_batch(pictures: Path) -> None:
    data = valid()
    data["annotations"].pop(0)  # a picture without instances
    samples = CocoSamples(write(pictures, data), pictures, size=64)
    vocabulary = Vocabulary(samples.names, torch.eye(2, 8))
    batch = collate([samples[0], samples[1]], vocabulary, np.random.default_rng(0), (1, 2))
    assert batch.images_B3HW.shape == (2, 3, 64, 64)
    assert [len(target.boxes_M4) for target in batch.targets] == [0, 1]
    assert batch.targets[1].columns_MK.sum() == 1
    assert batch.targets[0].known_K.all()


def test_samples_of_boxes_and_of_federated_names(pictures: Path) -> None:
    data = valid()
    data["annotations"][0]["segmentation"] = None
    data["images"][1]["neg_category_ids"] = [90]
    samples = CocoSamples(write(pictures, data), pictures)
    assert samples[0].masks is None
    assert samples[0].boxes_xyxy.shape == (1, 4)
    assert not samples[1].exhaustive
    assert samples[1].absent == ("cup",)


def test_degenerate_instances_are_left_out_with_one_warning(pictures: Path) -> None:
    data = valid()
    empty = {"size": [HEIGHT, WIDTH], "counts": [80]}
    data["annotations"][0]["bbox"] = [12, 1, 4, 3]  # beyond the picture
    data["annotations"][2]["segmentation"] = empty
    path = write(pictures, data)
    with pytest.warns(UserWarning, match="1 instances are left out"):
        samples = CocoSamples(path, pictures)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [samples[i].names for i in range(2)] == [(), ()]
    assert samples[1].masks is not None
    assert samples[1].masks.shape == (0, HEIGHT, WIDTH)


def test_samples_refuse(pictures: Path) -> None:
    data = valid()
    path = write(pictures, data)
    with pytest.raises(InputError, match="no such folder"):
        CocoSamples(path, pictures / "none")
    with pytest.raises(InputError, match="size is 0"):
        CocoSamples(path, pictures, size=0)
    data["images"][0]["width"] = 11
    with pytest.raises(InputError, match=r"id 7 is 11 x 8, but 'a.png' is 10 x 8"):
        CocoSamples(write(pictures, data), pictures)[0]
    for name in ("none.png", "x" * 5000, "a\0.png"):
        data["images"][0]["file_name"] = name
        with pytest.raises(InputError, match=r"no picture .* \(image id 7"):
            CocoSamples(write(pictures, data), pictures)
    data = valid()
    data["annotations"] = data["annotations"][1:2]
    with pytest.raises(InputError, match="no instance to learn from"):
        CocoSamples(write(pictures, data), pictures)


def expressions(folder: Path, data: object) -> Path:
    path = folder / "expressions.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_expressions(tmp_path: Path) -> None:
    annotations = write(tmp_path, valid())
    coco = read_coco(annotations)
    entry = {"image_id": 70, "annotation_id": 43, "text": " the spoon on the left "}
    path = expressions(tmp_path, {"expressions": [entry]})
    assert default_expressions_path(annotations) == path
    (found,) = read_expressions(path, coco)
    assert (found.image, found.annotation, found.text) == (1, 2, "the spoon on the left")


GOOD = {"image_id": 70, "annotation_id": 43, "text": "the spoon"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "a list; allowed: a JSON object"),
        ({}, "`expressions` is missing"),
        ({"expressions": {}}, "`expressions` is an object"),
        ({"expressions": []}, "`expressions` is empty"),
        ({"expressions": [3]}, "expressions[0]: is a number"),
        ({"expressions": [GOOD, {}]}, "expressions[1]: `image_id` is missing"),
        ({"expressions": [GOOD | {"image_id": 1}]}, "`image_id` 1 is unknown"),
        ({"expressions": [GOOD | {"annotation_id": 1}]}, "`annotation_id` 1 is unknown"),
        ({"expressions": [GOOD | {"annotation_id": 0}]}, "`annotation_id` 0 is on image 7"),
        ({"expressions": [GOOD | {"annotation_id": 42}]}, "`annotation_id` 42 is a crowd"),
        ({"expressions": [GOOD | {"text": " "}]}, "`text` is ' '"),
        ({"expressions": [GOOD | {"text": None}]}, "`text` is None"),
    ],
)
def test_malformed_expressions(tmp_path: Path, data: object, says: str) -> None:
    coco = read_coco(write(tmp_path, valid()))
    path = expressions(tmp_path, data)
    assert says in refusal(path, lambda p: read_expressions(p, coco))


def test_missing_expressions_file(tmp_path: Path) -> None:
    coco = read_coco(write(tmp_path, valid()))
    path = tmp_path / "none.json"
    assert "no such expressions file" in refusal(path, lambda p: read_expressions(p, coco))
