"""Calibration as a user meets it: fit, load, predict, ask for precision, evaluate; bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from mobius_seg.calibration_cli import advice
from mobius_seg.calibration_file import PrecisionTable, fitted
from mobius_seg.checkpoint import load_calibration, load_model, save_model, weights_digest
from mobius_seg.cli import main
from mobius_seg.errors import InputError
from mobius_seg.evaluate.calibrate import calibrate, store
from mobius_seg.predictor import Predictor, load

NAMES = ("cup", "spoon")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:model 'mobius-test' was made with text encoder"),
]


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory, predictor: Predictor) -> Path:
    """Three pictures whose objects are two of what the model finds."""
    folder = tmp_path_factory.mktemp("calib")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i, (height, width) in enumerate([(48, 64), (64, 64), (64, 48)]):
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        found = predictor.predict(folder / f"{i}.png", threshold=0.0)
        for k in range(2):
            annotations.append(
                {
                    "id": 2 * i + k,
                    "image_id": i,
                    "category_id": k,
                    "bbox": found.bbox(2 * k),
                    "area": int(found.areas[2 * k]),
                    "iscrowd": 0,
                    "segmentation": found.rles[2 * k],
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(data))
    return folder


@pytest.fixture(scope="module")
def calibrated_folder(
    data_set: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy of the lively model with a calibration."""
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    assert run("calibrate", model_folder, data_set, "--out", str(folder)) == 0
    return folder


def run(command: str, model: Path | str, data: Path, *more: str) -> int:
    annotations = ["--annotations", str(data / "annotations.json"), "--images", str(data)]
    return main([command, "--model", str(model), *annotations, *more])


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1, error
    return error


def test_scores_change_and_nothing_else_does(
    calibrated_folder: Path, photo: NDArray[np.uint8]
) -> None:
    model = load(calibrated_folder, "cpu")
    assert model.calibration is not None
    for names in (["cup", "spoon"], None):
        raw = model.predict(photo, names=names, threshold=0.0, calibrated=False)
        mapped = model.predict(photo, names=names, threshold=0.0)
        assert len(raw) > 3
        assert mapped.rles == raw.rles
        assert mapped.names == raw.names
        assert not np.allclose(mapped.scores, raw.scores, atol=1e-3)
        assert (np.diff(mapped.scores) <= 0).all()
        half = float(np.median(mapped.scores))
        kept = model.predict(photo, names=names, threshold=half)
        np.testing.assert_array_equal(kept.scores, mapped.scores[mapped.scores >= half])
    plain = Predictor(load_model(calibrated_folder), device="cpu")
    untouched = plain.predict(photo, names=["cup"], threshold=0.0)
    raw = model.predict(photo, names=["cup"], threshold=0.0, calibrated=False)
    np.testing.assert_array_equal(untouched.scores, raw.scores)


def test_precision_and_threshold_answer_each_other(calibrated_folder: Path, data_set: Path) -> None:
    model = load(calibrated_folder, "cpu")
    best = max(fitted(model.calibration, "own").table("everything").precision)
    assert 0 < best <= 1
    threshold = model.threshold_for(precision=best, mode="everything")
    assert model.expected_precision(threshold, mode="everything") == best
    # The same by hand, over the calibration set.
    data = json.loads((data_set / "annotations.json").read_text())
    hits = found = 0
    for i, image in enumerate(data["images"]):
        truth = [a["segmentation"] for a in data["annotations"] if a["image_id"] == i]
        masks = [coco_mask.decode(rle).astype(bool) for rle in truth]
        instances = model.predict(data_set / image["file_name"], threshold=threshold)
        found += len(instances)
        for mask in instances.masks:
            ious = [(mask & other).sum() / (mask | other).sum() for other in masks]
            if ious and max(ious) >= 0.5:
                hits += 1
                masks.pop(int(np.argmax(ious)))
    assert found >= 10
    assert hits / found == pytest.approx(best)
    with pytest.raises(InputError, match="no threshold reaches a precision of 1"):
        model.threshold_for(precision=1.0, mode="everything")
    with pytest.raises(InputError, match="mode 'all' is unknown"):
        model.threshold_for(precision=0.5, mode="all")


def test_without_calibration_there_is_no_answer(
    predictor: Predictor, photo: NDArray[np.uint8]
) -> None:
    for ask in (
        lambda: predictor.threshold_for(precision=0.9),
        lambda: predictor.expected_precision(0.5),
    ):
        with pytest.raises(InputError, match="not calibrated: run mobius-seg calibrate"):
            ask()
    both = [predictor.predict(photo, threshold=0.0, calibrated=c).scores for c in (True, False)]
    np.testing.assert_array_equal(*both)
    with pytest.raises(InputError, match="calibrated is 1; allowed: True or False"):
        predictor.predict(photo, calibrated=1)  # type: ignore[call-overload]


def test_eval_reports_every_stage_and_draws(
    calibrated_folder: Path, data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    assert run("eval", calibrated_folder, data_set, "--calibration", "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert "LaECE_0" in printed
    assert "layer 2" in printed
    report = json.loads(out.read_text())["calibration"]
    assert [entry["stage"] for entry in report["stages"]] == [0, 1, 2]
    assert report["middle_stage"] == 1
    assert report["mapped"]
    # On what they were fitted on, maps bring the error over all queries close to nothing.
    for entry in report["stages"]:
        assert entry["mapped"]["laece0_all"] < min(0.1, entry["raw"]["laece0_all"])
    with Image.open(tmp_path / "figures.png") as picture:
        assert picture.width > picture.height > 100


def test_eval_without_maps_reports_raw(
    model_folder: Path, data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "plot.svg"
    arguments = ("--calibration", "--mode", "everything", "--calibration-plot", str(plot))
    assert run("eval", model_folder, data_set, *arguments) == 0
    assert "LaECE_0 mapped" not in capsys.readouterr().out
    assert "<svg" in plot.read_text()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--calibration-plot", "a.png"), "goes with --calibration"),
        (("--calibration", "--mode", "expressions"), "not defined with --mode expressions"),
        (("--calibration", "--calibration-plot", "a.txt"), "must end in .png, .pdf or .svg"),
        (("--calibration", "--out", "a.png"), "name one file"),
        (("--calibration", "--out", "."), ".: is a folder; --out names a file"),
        (("--calibration", "--calibration-plot", "/"), "is a folder; --calibration-plot names"),
    ],
)
def test_eval_options_that_cannot_be_meant(
    more: tuple[str, ...],
    says: str,
    model_folder: Path,
    data_set: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("eval", model_folder, data_set, *more) == 2
    assert says in one_line(capsys)


def test_calibrating_again_replaces_even_a_broken_file(
    calibrated_folder: Path, data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(calibrated_folder, tmp_path / "m"))
    good = (folder / "calibration.json").read_text()
    (folder / "calibration.json").write_text(good[:500])
    assert run("eval", folder, data_set) == 2
    error = one_line(capsys)
    assert "calibration.json: not valid JSON" in error
    assert "mobius-seg calibrate" in error
    assert run("calibrate", folder, data_set) == 0
    assert (folder / "calibration.json").read_text() == good


def test_a_calibration_of_other_weights_is_refused(
    calibrated_folder: Path, data_set: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(calibrated_folder, tmp_path / "m"))
    calibration = (folder / "calibration.json").read_text()
    save_model(load_model("mobius-test", random_weights=True, seed=5), folder)
    assert load_calibration(folder) is None  # new weights take the old calibration away
    (folder / "calibration.json").write_text(calibration)
    with pytest.raises(InputError, match="fitted on other weights"):
        load(folder, "cpu")
    stages = json.loads(calibration)
    stages["modes"]["names"]["stages"].pop()
    (calibrated_folder / "calibration.json").write_text(json.dumps(stages))
    try:
        with pytest.raises(InputError, match="maps of 2 stages, but the model has 3"):
            load(calibrated_folder, "cpu")
    finally:
        (calibrated_folder / "calibration.json").write_text(calibration)


def test_calibrate_says_what_it_advises_and_what_it_rests_on(
    model_folder: Path, data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    (folder / "operating_points.json").write_text("{}")
    assert run("calibrate", folder, data_set) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "warning: 3 pictures are few to fit on; 100 or more make figures that hold"
    ]
    assert "mode everything: precision 0.5" in said.out
    assert f"removed {folder / 'operating_points.json'}, tuned with other" in said.out
    assert not (folder / "operating_points.json").exists()
    calibration = load_calibration(folder)
    assert calibration is not None
    assert calibration.fitted_on["split"] is None
    assert calibration.fitted_on["nms_iou"] == load(folder, "cpu").config.nms_iou
    table = PrecisionTable(thresholds=(0.1, 0.14, 0.3), precision=(0.4, 0.5, 0.8))
    assert advice(table) == (
        "precision 0.5 from score 0.14, precision 0.75 from score 0.30,"
        " precision 0.9 is not reached"
    )


def test_where_a_calibration_may_go(
    model_folder: Path,
    calibrated_folder: Path,
    data_set: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("calibrate", "mobius-n", data_set) == 2
    assert "part of the installation" in one_line(capsys)
    other = tmp_path / "other"
    save_model(load_model("mobius-test", random_weights=True), other)
    before = weights_digest(other)
    assert run("calibrate", model_folder, data_set, "--out", str(other)) == 2
    assert "holds another model" in one_line(capsys)
    assert weights_digest(other) == before
    file = tmp_path / "file"
    file.write_text("x")
    assert run("calibrate", model_folder, data_set, "--out", str(file)) == 2
    assert "is a file" in one_line(capsys)
    assert {p.name for p in calibrated_folder.iterdir()} == {
        "calibration.json", "config.json", "model.safetensors", "training.json",
    }  # fmt: skip
    assert not (model_folder / "calibration.json").exists()


def test_data_that_nothing_can_be_fitted_to(
    predictor: Predictor, data_set: Path, tmp_path: Path
) -> None:
    data = json.loads((data_set / "annotations.json").read_text())
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps(data | {"annotations": []}))
    with pytest.raises(InputError, match=r"empty\.json: no object to calibrate on"):
        calibrate(predictor, empty, data_set, weights_sha256="", progress=False)
    with pytest.raises(InputError, match="no such folder of pictures"):
        calibrate(predictor, data_set / "annotations.json", tmp_path / "no", weights_sha256="")
    with pytest.raises(InputError, match="limit is 0"):
        calibrate(predictor, data_set / "annotations.json", data_set, weights_sha256="", limit=0)
    for size in (7, 9000, "64"):
        with pytest.raises(InputError, match=f"size is {size!r}; allowed: whole numbers from 32"):
            calibrate(
                predictor, data_set / "annotations.json", data_set, weights_sha256="", size=size
            )


def test_stored_files_are_whole_or_not_there(calibrated_folder: Path, tmp_path: Path) -> None:
    calibration = load_calibration(calibrated_folder)
    assert calibration is not None
    path = store(calibration, calibrated_folder, tmp_path / "new" / "copy")
    assert path.read_text() == (calibrated_folder / "calibration.json").read_text()
    assert load_calibration(path.parent) == calibration
    assert not list(path.parent.glob(".tmp-*"))
