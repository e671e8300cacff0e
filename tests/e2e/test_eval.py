"""A whole evaluation: files on disk, a predictor, the figures."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

import mobius_seg
from mobius_seg.checkpoint import save_model
from mobius_seg.cli import main
from mobius_seg.errors import InputError
from mobius_seg.evaluate.runner import evaluate, write_metrics
from mobius_seg.instances import Instances

SIZES = [(60, 80), (90, 64), (60, 80), (33, 101), (48, 48)]
NAMES = ("cup", "spoon", "cat")
NAMED_KEYS = {
    *("mask_ap", "mask_ap50", "mask_ap75", "mask_ap_small", "mask_ap_medium", "mask_ap_large"),
    *("box_ap", "box_ap50", "box_ap75", "box_ap_small", "box_ap_medium", "box_ap_large"),
    *("mask_ar100", "box_ar100"),
}
AGNOSTIC_KEYS = {
    "agnostic_ar100",
    "agnostic_box_ar100",
    *(
        f"agnostic_{kind}_ap{part}"
        for kind in ("mask", "box")
        for part in ("", "50", "75", "_small", "_medium", "_large")
    ),
}
COMMON_KEYS = {"images", "names", "seconds_per_image", "conditions"}
COST_KEYS = {"decoder_layers_per_image", "decoder_gmac_per_image", "gmac_per_image"}


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures of several sizes with two to four rectangles, and an expression for each."""
    folder = tmp_path_factory.mktemp("set")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations, expressions = [], [], []
    for i, (height, width) in enumerate(SIZES):
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        pixels[0, 0] = i  # by which the oracle knows the picture
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        images.append({"id": 5 * i, "file_name": f"{i}.png", "height": height, "width": width})
        for _ in range(2 + i % 3):
            y, x = (int(rng.integers(0, side // 2)) for side in (height, width))
            h, w = (int(rng.integers(6, side // 2)) for side in (height, width))
            mask = np.zeros((height, width), np.uint8, order="F")
            mask[y : y + h, x : x + w] = 1
            rle = coco_mask.encode(mask)
            identity = len(annotations)
            annotations.append(
                {
                    "id": identity,
                    "image_id": 5 * i,
                    "category_id": 7 * int(rng.integers(0, 3)),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
            expressions.append(
                {"image_id": 5 * i, "annotation_id": identity, "text": f"number {identity}"}
            )
    categories = [{"id": 7 * i, "name": name} for i, name in enumerate(NAMES)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(data))
    (folder / "expressions.json").write_text(json.dumps({"expressions": expressions}))
    return folder


class Oracle:
    """A predictor that knows the answers, with a fault to order."""

    config = SimpleNamespace(name="oracle", input_size=64)
    device = torch.device("cpu")

    def __init__(
        self,
        folder: Path,
        fault: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] | None = None,
    ) -> None:
        self.data = json.loads((folder / "annotations.json").read_text())
        self.fault = fault
        self.calls: list[dict[str, Any]] = []

    def predict(self, images: Sequence[np.ndarray], **asked: Any) -> list[Instances]:
        self.calls.append({"count": len(images), **asked})
        texts = asked["expression"] or [None] * len(images)
        return [self._one(image, text, asked) for image, text in zip(images, texts, strict=True)]

    def _one(self, image: np.ndarray, text: str | None, asked: dict[str, Any]) -> Instances:
        mine = [a for a in self.data["annotations"] if a["image_id"] == 5 * int(image[0, 0, 0])]
        if text is not None:  # the meant one has the best score, another one comes first
            mine.sort(key=lambda a: f"number {a['id']}" == text)
        if self.fault is not None:
            mine = self.fault(mine)
        boxes = np.array([a["bbox"] for a in mine], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        named = asked["names"] is not None
        return Instances(
            image_size=image.shape[:2],
            rles=[a["segmentation"] for a in mine],
            boxes_xyxy=boxes,
            scores=np.linspace(0.1, 0.9, len(mine), dtype=np.float32),
            names=[NAMES[a["category_id"] // 7] if named else "object" for a in mine],
            name_ids=np.zeros(len(mine), np.int64),
            instance_ids=np.arange(len(mine)),
        )


def run(folder: Path, predictor: Any, **options: Any) -> dict[str, Any]:
    options.setdefault("progress", False)
    return evaluate(predictor, folder / "annotations.json", folder / "images", **options)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_names(data_set: Path, batch: int) -> None:
    oracle = Oracle(data_set)
    figures = run(data_set, oracle, batch=batch)
    assert set(figures) == NAMED_KEYS | AGNOSTIC_KEYS | COMMON_KEYS
    for key in ("mask_ap", "box_ap50", "agnostic_mask_ap", "agnostic_mask_ap50", "agnostic_ar100"):
        assert figures[key] == pytest.approx(1.0)
    assert figures["mask_ap_large"] is None
    assert (figures["images"], figures["names"]) == (5, 3)
    assert 0 < figures["seconds_per_image"] < 1
    assert figures["conditions"]["model"] == "oracle"
    assert figures["conditions"]["size"] == 64
    assert figures["conditions"]["batch"] == batch
    assert [c["count"] for c in oracle.calls][:2] == [1, min(batch, 5)]  # the first warms up
    assert sum(c["count"] for c in oracle.calls[1:]) == 5


def test_an_operating_point_is_passed_on_and_answers_are_told_once(data_set: Path) -> None:
    oracle, told = Oracle(data_set), []
    run(data_set, oracle, batch=2, operating_point="fast", seen=told.append)
    assert {call["operating_point"] for call in oracle.calls} == {"fast"}
    assert [one.image_size for one in told] == SIZES  # the call to warm up is not among them
    assert oracle.calls[0]["names"] == list(NAMES)
    assert (oracle.calls[0]["threshold"], oracle.calls[0]["max_instances"]) == (0.0, 100)
    assert oracle.calls[0]["names_per_instance"] == 100  # every pair that can be among the best 100


def test_wrong_names_cost_named_figures_alone(data_set: Path) -> None:
    wrong = Oracle(
        data_set, lambda mine: [a | {"category_id": (a["category_id"] + 7) % 21} for a in mine]
    )
    figures = run(data_set, wrong)
    assert figures["mask_ap"] < 0.7
    assert figures["agnostic_mask_ap"] == pytest.approx(1.0)


def test_everything(data_set: Path) -> None:
    oracle = Oracle(data_set)
    figures = run(data_set, oracle, mode="everything")
    assert set(figures) == AGNOSTIC_KEYS | COMMON_KEYS
    assert figures["agnostic_mask_ap"] == pytest.approx(1.0)
    assert figures["names"] == 0
    assert oracle.calls[0]["names"] is None
    assert oracle.calls[0]["expression"] is None


@pytest.mark.parametrize("batch", [1, 4])
def test_expressions(data_set: Path, batch: int) -> None:
    figures = run(data_set, Oracle(data_set), mode="expressions", batch=batch)
    assert set(figures) == {"p_at_50", "ciou", "expressions"} | COMMON_KEYS
    assert figures["p_at_50"] == figures["ciou"] == 1.0
    assert (figures["images"], figures["expressions"]) == (5, 14)
    worst = Oracle(data_set, lambda mine: mine[::-1])
    assert run(data_set, worst, mode="expressions")["p_at_50"] < 0.5
    blind = Oracle(data_set, lambda mine: [])
    figures = run(data_set, blind, mode="expressions")
    assert figures["p_at_50"] == figures["ciou"] == 0.0


def test_other_expressions_file(data_set: Path, tmp_path: Path) -> None:
    entry = {"image_id": 10, "annotation_id": 5, "text": "number 5"}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"expressions": [entry]}))
    figures = run(data_set, Oracle(data_set), mode="expressions", expressions=path)
    assert (figures["images"], figures["expressions"], figures["p_at_50"]) == (1, 1, 1.0)


def test_limit(data_set: Path) -> None:
    oracle = Oracle(data_set)
    figures = run(data_set, oracle, limit=2)
    assert figures["images"] == 2
    assert figures["agnostic_mask_ap"] == pytest.approx(1.0)
    assert run(data_set, oracle, limit=99)["images"] == 5
    assert run(data_set, oracle, limit=2, mode="expressions")["expressions"] == 5


def test_no_predictions(data_set: Path) -> None:
    figures = run(data_set, Oracle(data_set, lambda mine: []))
    assert figures["mask_ap"] == figures["agnostic_ar100"] == 0.0


def test_nothing_to_find_is_null_and_never_nan(data_set: Path, tmp_path: Path) -> None:
    data = json.loads((data_set / "annotations.json").read_text()) | {"annotations": []}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(data))
    figures = evaluate(Oracle(data_set), path, data_set / "images", progress=False)
    assert figures["mask_ap"] is figures["box_ap"] is figures["agnostic_ar100"] is None
    write_metrics(tmp_path / "out" / "metrics.json", figures)
    text = (tmp_path / "out" / "metrics.json").read_text()
    assert "NaN" not in text
    assert json.loads(text) == figures
    with pytest.raises(ValueError, match="JSON compliant"):
        write_metrics(tmp_path / "bad.json", {"mask_ap": float("nan")})
    assert not (tmp_path / "bad.json").exists()
    with pytest.raises(InputError, match="cannot be written"):
        write_metrics(tmp_path / "annotations.json" / "x.json", figures)


def test_threads_are_set_and_put_back(data_set: Path) -> None:
    before = torch.get_num_threads()
    figures = run(data_set, Oracle(data_set), threads=before + 1)
    assert figures["conditions"]["threads"] == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "boxes"}, "mode 'boxes' is unknown; allowed: names, everything, expressions"),
        ({"limit": 0}, "limit is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"size": 1.5}, "size is 1.5"),
        ({"batch": True}, "batch is True"),
        ({"expressions": "x.json"}, "expressions are not used in mode 'names'"),
        ({"mode": "expressions", "expressions": "none.json"}, "no such expressions file"),
        ({"threads": 10**9}, "threads is 1000000000; allowed: up to 1024"),
    ],
)
def test_arguments_that_cannot_be_meant(data_set: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        run(data_set, Oracle(data_set), **options)


def test_pictures_that_cannot_be_used(data_set: Path, tmp_path: Path) -> None:
    annotations = data_set / "annotations.json"
    oracle = Oracle(data_set)
    with pytest.raises(InputError, match="no such folder of pictures"):
        evaluate(oracle, annotations, tmp_path / "none", progress=False)
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes((data_set / "images" / f"{i}.png").read_bytes())
    with pytest.raises(InputError, match=r"no picture '4.png' here \(image id 20"):
        evaluate(oracle, annotations, tmp_path, progress=False)
    assert not oracle.calls  # found before the first prediction
    Image.new("RGB", (48, 47)).save(tmp_path / "4.png")
    with pytest.raises(InputError, match=r"image id 20 is 48 x 48, but '4.png' is 48 x 47"):
        evaluate(oracle, annotations, tmp_path, progress=False)
    (tmp_path / "4.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"4\.png"):
        evaluate(oracle, annotations, tmp_path, progress=False)


def test_sizes_are_those_after_exif_orientation(data_set: Path, tmp_path: Path) -> None:
    for i, (height, width) in enumerate(SIZES):
        picture = Image.open(data_set / "images" / f"{i}.png")
        exif = Image.Exif()
        exif[0x0112] = 6  # stored lying, shown upright
        picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"{i}.png", exif=exif)
        assert Image.open(tmp_path / f"{i}.png").size == (height, width)
    oracle = Oracle(data_set)
    figures = evaluate(oracle, data_set / "annotations.json", tmp_path, progress=False)
    assert figures["mask_ap"] == pytest.approx(1.0)


def test_expressions_need_masks(data_set: Path, tmp_path: Path) -> None:
    data = json.loads((data_set / "annotations.json").read_text())
    for annotation in data["annotations"]:
        del annotation["segmentation"]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="id 0 has no mask"):
        evaluate(
            Oracle(data_set),
            path,
            data_set / "images",
            mode="expressions",
            expressions=data_set / "expressions.json",
            progress=False,
        )


class Letters:
    """A text encoder for tests: fixed vectors by content, nothing to load."""

    dim = 384
    identity = "letters"

    def encode(self, texts: Sequence[str]) -> Any:
        from mobius_seg.text import TextFeatures

        rows = [
            torch.randn(2, self.dim, generator=torch.Generator().manual_seed(sum(map(ord, text))))
            for text in texts
        ]
        tokens_KTD = torch.nn.functional.normalize(torch.stack(rows), dim=-1)
        return TextFeatures(
            pooled_KD=torch.nn.functional.normalize(tokens_KTD.mean(1), dim=-1),
            tokens_KTD=tokens_KTD,
            tokens_mask_KT=torch.ones(len(texts), 2, dtype=torch.bool),
        )


@pytest.mark.parametrize("mode", ["names", "everything", "expressions"])
def test_a_real_network(data_set: Path, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = mobius_seg.load("mobius-test", random_weights=True, text_encoder=Letters())
    figures = run(data_set, model, mode=mode, size=64, threads=1, limit=3, progress=True)
    again = run(data_set, model, mode=mode, size=64, threads=1, limit=3, batch=1)
    for key, value in figures.items():
        if key in COMMON_KEYS or value is None:
            continue
        assert value == pytest.approx(again[key], abs=1e-3)
        assert key == "expressions" or 0 <= value <= 1
    assert figures["conditions"]["model"] == "mobius-test"
    assert figures["conditions"]["threads"] == 1
    assert capsys.readouterr().out == ""
    json.dumps(figures, allow_nan=False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "model"
    model = mobius_seg.load("mobius-test", random_weights=True, text_encoder=Letters())
    save_model(model.network, folder)
    return folder


def command(weights: Path, data_set: Path, *options: str) -> int:
    given = ["--model", str(weights), "--images", str(data_set / "images"), *options]
    return main(["eval", *given, "--mode", "everything", "--size", "64", "--threads", "1"])


def test_command_line(
    weights: Path, data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "metrics.json"
    annotations = ("--annotations", str(data_set / "annotations.json"))
    assert command(weights, data_set, *annotations, "--out", str(out), "--limit", "2") == 0
    figures = json.loads(out.read_text())
    assert set(figures) == AGNOSTIC_KEYS | COMMON_KEYS | COST_KEYS
    assert figures["images"] == 2
    assert "agnostic_mask_ap50" in capsys.readouterr().out


def test_operating_points(
    weights: Path, data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cheaper point costs less, its receipts say so, and the figures name it."""
    annotations = ("--annotations", str(data_set / "annotations.json"))
    given = ("--model", str(weights), "--images", str(data_set / "images"), *annotations)
    found = {}
    for point in ("full", "fast"):
        out = tmp_path / f"{point}.json"
        assert main(["eval", *given, "--operating-point", point, "--out", str(out)]) == 0
        found[point] = json.loads(out.read_text())
        assert found[point]["conditions"]["operating_point"] == point
    full, fast = found["full"], found["fast"]
    assert full["decoder_layers_per_image"] == 2
    assert fast["decoder_gmac_per_image"] < full["decoder_gmac_per_image"]
    saved = full["gmac_per_image"] - fast["gmac_per_image"]
    saved_in_decoder = full["decoder_gmac_per_image"] - fast["decoder_gmac_per_image"]
    assert saved == pytest.approx(saved_in_decoder)
    assert main(["eval", *given, "--operating-point", "quick"]) == 2
    assert "quick" in capsys.readouterr().err
    assert main(["eval", *given, "--operating-point", "fast", "--calibration"]) == 2
    assert "without --operating-point" in capsys.readouterr().err


def test_command_line_refuses_a_malformed_file(
    weights: Path, data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads((data_set / "annotations.json").read_text())
    data["annotations"][3]["segmentation"]["counts"] = [1, 2, 3]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(data))
    assert command(weights, data_set, "--annotations", str(path)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert "annotations[3] (id 3): `segmentation`: the runs of the RLE sum to 6" in printed.err
