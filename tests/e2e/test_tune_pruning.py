"""Tuning: the record and its simulation against the real thing, floors, and the command."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from tests.support.models import HashEncoder, lively_network

import mobius_seg
from mobius_seg import Predictor
from mobius_seg.cli import main
from mobius_seg.data.coco import read_coco
from mobius_seg.errors import InputError
from mobius_seg.evaluate.ap import run_coco_eval
from mobius_seg.evaluate.stage_scores import collect
from mobius_seg.export.schedule import find_schedule
from mobius_seg.model import Mobius
from mobius_seg.operating_points import load_points
from mobius_seg.pruning import PruningPolicy
from mobius_seg.pruning_candidates import THRESHOLDS, Candidate, learn_floors
from mobius_seg.pruning_record import (
    ImageRecord,
    average_precision,
    record_image,
    simulate,
    true_positives,
)
from mobius_seg.tune_pruning import Measurement, _Runs, losses, tune

pytestmark = pytest.mark.slow

NAMES = ["cup", "dog", "tree"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, predictor: Predictor) -> Path:
    """A data set whose truth is some of what the model finds, so that it finds something."""
    folder = tmp_path_factory.mktemp("calib")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 5):
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((80, 48)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 48})
        found = predictor.predict(folder / f"{number}.png", names=NAMES, threshold=0.0)
        for i in (0, 2, 5):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(found.name_ids[i]) + 1,
                    "bbox": found.bbox(i),
                    "area": int(found.areas[i]),
                    "iscrowd": 0,
                    "segmentation": found.rles[i],
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def records(data: Path, predictor: Predictor) -> list[ImageRecord]:
    coco = read_coco(data / "annotations.json")
    return [record_image(predictor, coco, data, row, 64) for row in range(4)]


def rectangles(rng: np.random.Generator, count: int) -> list[dict[str, object]]:
    rles = []
    for _ in range(count):
        mask = np.zeros((40, 50), np.uint8, order="F")
        y, x = rng.integers(0, 20, 2)
        mask[y : y + rng.integers(8, 20), x : x + rng.integers(8, 30)] = 1
        rles.append(coco_mask.encode(mask))
    return rles


@pytest.mark.parametrize("named", [True, False])
def test_average_precision_is_coco_s(named: bool) -> None:
    rng = np.random.default_rng(3)
    records, truth, detections = [], [], []
    for image in range(6):
        true, found = rectangles(rng, 4), rectangles(rng, 12)
        found[:3] = true[:3]
        labels, guesses = rng.integers(0, 3, 4), rng.integers(0, 3, 12)
        guesses[:2] = labels[:2]
        scores = np.float32(rng.random(12))
        for rle, label in zip(true, labels, strict=True):
            truth.append(
                {"id": len(truth) + 1, "image_id": image + 1, "segmentation": rle, "iscrowd": 0}
                | {"category_id": int(label) + 1 if named else 1, "area": 1000.0}
                | {"bbox": [0.0, 0.0, 1.0, 1.0]}
            )
        for rle, guess, score in zip(found, guesses, scores, strict=True):
            detections.append(
                {"id": len(detections) + 1, "image_id": image + 1, "segmentation": rle}
                | {"category_id": int(guess) + 1 if named else 1, "area": 1000.0}
                | {"bbox": [0.0, 0.0, 1.0, 1.0], "score": float(score), "iscrowd": 0}
            )
        records.append(
            ImageRecord(
                image=image,
                scores_SQ=torch.from_numpy(scores)[None],
                raw_SQ=torch.from_numpy(scores)[None],
                names_SQ=guesses[None],
                boxes_SQ4=torch.zeros(1, 12, 4),
                iou_SQM=np.float32(coco_mask.iou(found, true, [0] * 4))[None],
                shown_SQ=np.ones((1, 12), np.bool_),
                truth_M=labels,
                shape=(64, 64, 3, 0),
            )
        )
    images = [{"id": i + 1, "height": 40, "width": 50} for i in range(6)]
    seen = sorted({int(entry["category_id"]) for entry in truth})  # type: ignore[call-overload]
    wanted = run_coco_eval(images, truth, detections, seen, "segm")
    outcomes = [simulate(record, PruningPolicy()) for record in records]
    precision, recall = average_precision(records, outcomes, named=named)
    assert wanted["ap"] == pytest.approx(precision, abs=1e-6)
    assert wanted["ar100"] == pytest.approx(recall, abs=1e-6)
    assert 0.05 < precision < 0.95


def test_the_record_is_what_the_decoder_says(
    records: list[ImageRecord], data: Path, predictor: Predictor
) -> None:
    for record in records:
        found = predictor.predict(data / f"{record.image + 1}.png", names=NAMES, threshold=0.0)
        shown = record.shown_SQ[-1]
        assert shown.sum() == len(found)
        best = np.sort(record.scores_SQ[-1].numpy()[shown])[::-1]
        np.testing.assert_allclose(found.scores, best, atol=1e-5)
        assert (record.iou_SQM[-1].max(0) > 0.999).all()  # the truth is among the answers
        assert len(true_positives(record)) == 3
        assert record.scores_SQ.shape == (3, 12)
    assert not all(record.shown_SQ[-1].all() for record in records)  # a duplicate is among them


@pytest.mark.parametrize("part", ["uncertainty_head", "fuse_subwords"])
def test_the_record_and_the_maps_read_what_predict_reads(data: Path, part: str) -> None:
    lively = lively_network()
    network = Mobius(dataclasses.replace(lively.config, **{part: True})).eval()
    network.load_state_dict(lively.state_dict(), strict=False)
    if part == "uncertainty_head":
        with torch.no_grad():
            network.decoder.heads.uncertainty.mlp[-1].bias.fill_(-2.0)
    model = Predictor(network, text_encoder=HashEncoder(), device="cpu")
    long = dict(json.loads((data / "annotations.json").read_text()))
    long["categories"][0]["name"] = "a cup of several sub-words"
    (data / "long.json").write_text(json.dumps(long))
    coco = read_coco(data / "long.json")
    found = model.predict(data / "1.png", names=list(coco.names), threshold=0.0)
    record = record_image(model, coco, data, 0, 64)
    kept = record.scores_SQ[-1][torch.from_numpy(record.shown_SQ[-1])]
    np.testing.assert_allclose(np.sort(kept)[::-1], found.scores, atol=1e-5)
    scores = collect(model, coco, data, [0], named=True)
    counted = scores.confidence[-1][scores.counts[-1]]
    np.testing.assert_allclose(np.sort(counted)[::-1], found.scores, atol=1e-5)


def test_simulated_and_real_runs_agree_where_nothing_was_pruned_before(
    records: list[ImageRecord], data: Path, predictor: Predictor
) -> None:
    middle = float(torch.cat([record.scores_SQ[1] for record in records]).median()) + 1e-4
    for policy in (
        PruningPolicy(),
        PruningPolicy.static((12, 5)),
        PruningPolicy(thresholds=(0.0,), floors=((-1.0,), (middle,)), least=2),
        PruningPolicy(settle=10.0),
        PruningPolicy(layers=0),
    ):
        for record in records:
            picture = data / f"{record.image + 1}.png"
            real = predictor.predict(picture, names=NAMES, threshold=0.0, operating_point=policy)
            assert real.receipt is not None
            assert simulate(record, policy).queries == real.receipt.queries


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_floors_lose_at_most_their_share(records: list[ImageRecord], share: float) -> None:
    floors = learn_floors(records, share)
    assert len(floors) == 2
    for stage, row in enumerate(floors):
        assert list(row) == sorted(row)
        for threshold, floor in zip(THRESHOLDS, row, strict=True):
            lost = all_of_them = 0
            for record in records:
                positives = true_positives(record)
                positives = positives[record.scores_SQ[-1].numpy()[positives] >= threshold]
                all_of_them += len(positives)
                lost += int((record.scores_SQ[stage].numpy()[positives] < floor).sum())
            assert lost <= share * all_of_them
    assert all(a <= b for a, b in zip(learn_floors(records, 0.0)[1], floors[1], strict=True))


def measured(named: float, agnostic: float, cost: float) -> dict[str, float | None]:
    figures = {"mask_ap": named, "agnostic_mask_ap": agnostic, "agnostic_ar100": 0.5}
    return {**figures, "decoder_gmac": cost}


FULL = Measurement(measured(0.5, 0.5, 1000.0), (measured(0.5, 0.5, 0.0),) * 4)


class FakeRuns(_Runs):
    """Policies whose outcome is known."""

    def __init__(self, outcomes: dict[PruningPolicy, Measurement], margin: float = 0.0) -> None:
        self._metric, self._margin = "ap", margin
        self._done = {PruningPolicy(): FULL}
        self._outcomes = outcomes
        self.runs: list[float | None] = []

    def measure(self, policy: PruningPolicy, _name: str) -> None:
        self._done[policy] = self._outcomes[policy]
        self.runs.append(self._outcomes[policy].figures["decoder_gmac"])


def test_a_point_is_the_cheapest_policy_that_was_run() -> None:
    """Forty candidates, of which the cheap ones lose far more than the simulation says."""
    promised = [1.0] * 5 + [0.5] * 33 + [0.1] * 2
    found = [
        Candidate(PruningPolicy(least=i + 1), loss, i + 1.0) for i, loss in enumerate(promised)
    ]
    outcomes = {
        one.policy: Measurement(
            measured(0.45 if one.policy.least < 39 else 0.499, 0.5, float(one.policy.least))
        )
        for one in found
    }
    whole = {policy: Measurement(one.figures, FULL.parts) for policy, one in outcomes.items()}
    runs = FakeRuns(whole)
    balanced = runs.cheapest(found, 0.3, "balanced")
    fast = runs.cheapest(found, 1.2, "fast")
    assert balanced.measured["decoder_gmac"] == 39.0
    assert balanced.measured["loss"] == pytest.approx(0.1)
    assert fast.measured["decoder_gmac"] == 39.0  # no dearer than balanced
    nothing = FakeRuns(whole).cheapest(found[:5], 1.2, "fast")
    assert nothing.policy == PruningPolicy()


def test_the_search_learns_how_much_the_simulation_promises_too_much() -> None:
    # Dearer policies lose less; each really loses a point more than its simulation says.
    found = [
        Candidate(PruningPolicy.static((100 + cost,), 1), 2.0 - 0.02 * cost, float(cost))
        for cost in range(1, 100)
    ]
    runs = FakeRuns(
        {
            one.policy: Measurement(
                measured(0.5, 0.5 - (one.loss + 1) / 100, one.decoder_gmac), FULL.parts
            )
            for one in found
        }
    )
    point = runs.cheapest(found, 1.3, "balanced")
    assert point.measured["decoder_gmac"] is not None
    assert 85 <= point.measured["decoder_gmac"] <= 90  # the cheapest that keeps it costs 85
    assert len(runs.runs) <= 8


def test_the_error_of_a_loss_is_the_jackknife_s() -> None:
    # For means of one value a picture the jackknife is the standard error of the mean.
    rng = np.random.default_rng(0)
    lost = rng.normal(0.002, 0.01, 10)
    parts = [float(np.delete(lost, i).mean()) for i in range(10)]
    pruned = Measurement(
        measured(0.5 - float(lost.mean()), 0.5, 1.0),
        tuple(measured(0.5 - part, 0.5, 1.0) for part in parts),
    )
    full = Measurement(FULL.figures, FULL.parts[:1] * 10)
    loss, error = losses(full, pruned, "ap", 1.0)
    assert loss == pytest.approx(100 * lost.mean())
    assert error == pytest.approx(100 * lost.std(ddof=1) / np.sqrt(10))
    assert losses(full, pruned, "recall", 1.0) == (0.0, 0.0)
    bare = losses(Measurement(full.figures), Measurement(pruned.figures), "ap", 1.0)
    assert bare == (pytest.approx(100 * lost.mean()), 0.0)


def test_a_bound_is_kept_with_the_margin() -> None:
    spread = [0.48, 0.5, 0.5, 0.5]  # a standard error of 1.5 points
    even = [0.498] * 4
    policies = [PruningPolicy.static((5,), 1), PruningPolicy.static((9,), 1)]
    found = [
        Candidate(policy, 0.1, cost) for policy, cost in zip(policies, (5.0, 9.0), strict=True)
    ]
    outcomes = {
        policy: Measurement(
            measured(0.498, 0.5, one.decoder_gmac), tuple(measured(x, 0.5, 0.0) for x in parts)
        )
        for policy, one, parts in zip(policies, found, (spread, even), strict=True)
    }
    assert FakeRuns(outcomes).cheapest(found, 0.3, "balanced").policy == policies[0]
    point = FakeRuns(outcomes, margin=1.0).cheapest(found, 0.3, "balanced")
    assert point.policy == policies[1]
    assert point.measured["loss_error"] == 0.0
    alone = FakeRuns(outcomes, margin=1.0).cheapest(found[:1], 0.3, "balanced")
    assert alone.policy == PruningPolicy()


def test_floors_between_level_scores_still_drop(records: list[ImageRecord]) -> None:
    level = [
        dataclasses.replace(one, scores_SQ=0.6 + one.scores_SQ.double() * 1e-9) for one in records
    ]
    for row, wanted in zip(learn_floors(level, 0.5), learn_floors(records, 0.5), strict=True):
        np.testing.assert_allclose((np.array(row) - 0.6) * 1e9, wanted, atol=1e-4)


def test_data_and_numbers_that_no_loss_can_be_measured_with(
    data: Path, predictor: Predictor, tmp_path: Path
) -> None:
    path = data / "annotations.json"
    for changes, said in (
        ({"size": 7}, "size is 7; allowed: whole numbers from 32"),
        ({"size": 0}, "size is 0; allowed"),
        ({"size": 9000}, "size is 9000; allowed"),
        ({"limit": 0}, "limit is 0; allowed"),
        ({"limit": -1}, "limit is -1; allowed"),
        ({"limit": 1}, "of one picture a loss has no standard error"),
        ({"margin": None}, "margin is None; allowed: 0 to 10"),
        ({"loss": "0.3"}, "loss is '0.3'; allowed: 0 to 100"),
    ):
        with pytest.raises(InputError, match=said):
            tune(predictor, path, data, progress=False, **changes)  # type: ignore[arg-type]
    content = json.loads(path.read_text())
    del content["annotations"][3]["segmentation"]
    (tmp_path / "part.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"part\.json: annotation id 4 has no mask"):
        tune(predictor, tmp_path / "part.json", data, progress=False)


def test_tune_pruning_from_the_command_line(
    data: Path,
    tmp_path: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("mobius_seg.predictor.default_encoder", HashEncoder)
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    common = ["tune-pruning", "--model", str(folder), "--images", str(data)]
    annotations = ["--annotations", str(data / "annotations.json")]
    assert main([*common, *annotations, "--loss", "2"]) == 0
    said = capsys.readouterr()
    assert "balanced" in said.out
    assert "warning: 4 pictures are few" in said.err
    assert "" not in said.err.splitlines()
    model = mobius_seg.load(folder, "cpu", text_encoder=HashEncoder())
    points = load_points(folder, model.config)
    assert list(points.points) == ["full", "balanced", "fast"]
    assert points.conditions["images"] == 4
    full, balanced, fast = (points.points[name].measured for name in points.points)
    assert full["agnostic_mask_ap"] > 0.1  # type: ignore[operator]
    for point, loss in ((balanced, 0.02), (fast, 0.08)):
        for figure in ("mask_ap", "agnostic_mask_ap"):
            assert full[figure] - point[figure] <= loss + 1e-9  # type: ignore[operator]
    assert [full[f"queries_{stage}"] for stage in range(3)] == [12, 12, 12]
    for point in (balanced, fast):
        counts = [point[f"queries_{stage}"] or 0.0 for stage in range(3)]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] == 12
    assert list(points.graphs) == ["balanced", "fast"]
    for name in points.graphs:
        schedule = find_schedule(model.config, points, name)
        assert schedule.policy == points.graphs[name].policy
        assert schedule.policy.form in ("full", "static")
        assert points.points[name].measured["decoder_gmac"] <= 1.05 * (  # type: ignore[operator]
            points.graphs[name].measured["decoder_gmac"] or 0.0
        )
    stored = json.loads((folder / "operating_points.json").read_text())
    stored["graphs"]["fast"]["policy"] |= {"settle": 0.1}
    (tmp_path / "operating_points.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match="'fast' among 'graphs' is not static"):
        load_points(tmp_path, model.config)
    (tmp_path / "operating_points.json").unlink()
    costs = [point["decoder_gmac"] for point in (full, balanced, fast)]
    assert costs[0] >= costs[1] >= costs[2]  # type: ignore[operator]
    found = model.predict(data / "1.png", names=NAMES, operating_point="fast", threshold=0.0)
    assert found.receipt is not None

    fixed = tmp_path / "fixed"
    form = ["--form", "static", "--out", str(fixed)]
    assert main([*common, *annotations, "--loss", "30", *form]) == 0
    assert not load_points(fixed, model.config).graphs
    schedules = load_points(fixed, model.config).points
    assert [schedules[name].policy.form for name in ("balanced", "fast")] == ["static"] * 2
    for name in ("balanced", "fast"):
        run = [
            model.predict(
                data / f"{number}.png", names=NAMES, operating_point=schedules[name].policy
            ).receipt
            for number in (1, 2)
        ]
        assert run[0] is not None
        assert run[0].queries == run[1].queries  # type: ignore[union-attr]
        assert run[0].queries[1:] == tuple(
            schedules[name].measured[f"queries_{layer}"] for layer in range(1, run[0].layers + 1)
        )
    copy = tmp_path / "copy"
    assert main([*common, *annotations, "--loss", "2", "--out", str(copy)]) == 0
    assert load_points(copy, model.config).points == points.points
    assert (copy / "model.safetensors").exists()
    capsys.readouterr()
    shipped = ["tune-pruning", "--model", "mobius-n", "--images", str(data), *annotations]
    assert main(shipped) == 2
    assert "part of the installation" in capsys.readouterr().err

    empty = json.loads((data / "annotations.json").read_text()) | {"annotations": []}
    (tmp_path / "empty.json").write_text(json.dumps(empty))
    capsys.readouterr()
    for arguments, wanted in (
        (["--annotations", str(tmp_path / "empty.json")], "finds none of its instances"),
        ([*annotations, "--loss", "-1"], "'-1' is not a number from 0 to 100"),
        ([*annotations, "--margin", "11"], "'11' is not a number from 0 to 10"),
        ([*annotations, "--form", "loose"], "invalid choice: 'loose'"),
        ([*annotations, "--metric", "iou"], "invalid choice: 'iou'"),
        (["--annotations", str(tmp_path / "no.json")], "no.json"),
    ):
        assert main([*common, *arguments]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert wanted in lines[-1]
