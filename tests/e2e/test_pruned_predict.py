"""Budgets, operating points, receipts and streams as a user meets them; tuning from end to end."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.support.models import HashEncoder, lively_network
from torch.utils._python_dispatch import _disable_current_modes

import mobius_seg
from mobius_seg import InputError, Instances, Predictor
from mobius_seg.checkpoint import save_model
from mobius_seg.cli import main
from mobius_seg.cost.dispatch import OperatorCounter
from mobius_seg.operating_points import OperatingPoint, OperatingPoints, load_points
from mobius_seg.pruning import PruningPolicy
from mobius_seg.text_features import TextFeatures

Picture = NDArray[np.uint8]
Capture = pytest.CaptureFixture[str]
NAMES = ["cup", "dog", "tree"]
PRUNED = PruningPolicy(thresholds=(0.0,), floors=((0.0,), (0.45,)), least=3, keep=(12, 8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A model with an operating point."""
    made = tmp_path_factory.mktemp("pruned") / "model"
    shutil.copytree(model_folder, made)
    full, cut = OperatingPoint(PruningPolicy()), OperatingPoint(PRUNED, {"mask_ap": 0.5})
    OperatingPoints({"full": full, "balanced": cut}, {"images": 3}).save(made)
    return made


class Unseen(HashEncoder):
    """Encodes text behind the counter's back: it is no part of the network."""

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        with _disable_current_modes():
            return super().encode(texts)


@pytest.fixture
def quiet(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """The predictor, with text that the dispatch counter does not see."""
    monkeypatch.setattr(predictor, "text_encoder", Unseen())
    return predictor


def equal(first: Instances, second: Instances) -> None:
    assert first.rles == second.rles
    assert np.array_equal(first.boxes_xyxy, second.boxes_xyxy)
    assert np.array_equal(first.scores, second.scores)
    assert first.names == second.names
    assert first.receipt == second.receipt


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"operating_point": PRUNED},
        {"budget": "1layer"},
        {"operating_point": PruningPolicy.static((5,), 0)},
        {"expression": "the cup on the left"},
        {"names": None},
    ],
    ids=str,
)
def test_a_receipt_is_what_was_executed(
    quiet: Predictor, photo: Picture, arguments: dict[str, object]
) -> None:
    """The dispatch counter, run over the very call, counts what the receipt says."""
    asked = {"names": None if "expression" in arguments else NAMES} | arguments
    counter = OperatorCounter()
    with (
        counter.following(quiet.network),
        counter,
        counter.inside("transformer_decoder.mask_product"),
    ):
        found = quiet.predict(photo, threshold=0.1, **asked)  # type: ignore[call-overload]
    assert found.receipt is not None
    gmac, macs = found.receipt.gmac, counter.macs
    assert gmac["backbone"] == pytest.approx(macs["backbone"] / 1e9, rel=1e-3)
    pixel = sum(value for part, value in macs.items() if part.startswith("pixel_decoder"))
    assert gmac["pixel_decoder"] == pytest.approx(pixel / 1e9, rel=1e-3)
    ran = sum(value for part, value in macs.items() if part.startswith("transformer_decoder"))
    assert gmac["transformer_decoder"] == pytest.approx(ran / 1e9, rel=1e-3)
    assert gmac["total"] == pytest.approx(sum(macs.values()) / 1e9, rel=1e-3)


def test_receipts_of_a_batch_add_up(quiet: Predictor, photo: Picture) -> None:
    pictures = [photo, photo[:, ::-1].copy(), 255 - photo]
    counter = OperatorCounter()
    with (
        counter.following(quiet.network),
        counter,
        counter.inside("transformer_decoder.mask_product"),
    ):
        found = quiet.predict(pictures, names=NAMES, operating_point=PRUNED, threshold=0.1)
    total = sum(one.receipt.gmac["total"] for one in found if one.receipt)
    assert total == pytest.approx(sum(counter.macs.values()) / 1e9, rel=5e-3)  # the text is shared
    for picture, one in zip(pictures, found, strict=True):
        alone = quiet.predict(picture, names=NAMES, operating_point=PRUNED, threshold=0.1)
        assert alone.receipt == one.receipt
        assert np.abs(alone.scores - one.scores).max(initial=0) < 1e-4
    assert found[0][:1].receipt == found[0].receipt


def test_full_and_generous_budgets_change_nothing(predictor: Predictor, photo: Picture) -> None:
    plain = predictor.predict(photo, names=NAMES, threshold=0.0)
    for budget in ("5gmac", "9layers"):
        found = predictor.predict(photo, names=NAMES, threshold=0.0, budget=budget)
        equal(found, plain)
    equal(predictor.predict(photo, names=NAMES, threshold=0.0, operating_point="full"), plain)


def test_a_budget_holds_and_more_never_runs_less(predictor: Predictor, photo: Picture) -> None:
    plain = predictor.predict(photo, names=NAMES, threshold=0.0)
    assert plain.receipt is not None
    most = plain.receipt.gmac["total"]
    least = predictor.predict(
        photo, names=NAMES, threshold=0.0, operating_point=PruningPolicy.static((8,), 0)
    )
    assert least.receipt is not None
    start = least.receipt.gmac["total"] * 1.0001
    before: tuple[int, ...] = ()
    for amount in np.linspace(start, most * 1.01, 8):
        found = predictor.predict(photo, names=NAMES, threshold=0.0, budget=f"{amount:.9f}gmac")
        assert found.receipt is not None
        assert found.receipt.gmac["total"] <= amount
        queries = found.receipt.queries
        assert len(queries) >= len(before)
        assert all(a >= b for a, b in zip(queries, before, strict=False))
        before = queries
    assert before == plain.receipt.queries


def test_an_impossible_budget_is_one_line(predictor: Predictor, photo: Picture) -> None:
    for budget in ("0.001gmac", "0.0001ms"):
        with pytest.raises(InputError, match="the least possible for this image is") as caught:
            predictor.predict(photo, names=NAMES, budget=budget)
        assert "\n" not in str(caught.value)
        least = str(caught.value).split(" is ")[2].split(":")[0]
        if least.endswith("gmac"):
            predictor.predict(photo, names=NAMES, budget=least)  # is possible indeed


def test_a_budget_in_milliseconds_is_measured(predictor: Predictor, photo: Picture) -> None:
    predictor.planner.latency.clear()
    found = predictor.predict(photo, names=NAMES, budget="100000ms")
    assert found.receipt is not None
    assert found.receipt.queries == (12, 12, 12)
    assert list(predictor.planner.latency) == [(64, 64, 3, 0)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"budget": "3 bananas"}, "budget is '3 bananas'"),
        ({"budget": 3}, "budget is '3'"),
        ({"operating_point": "slow"}, "'slow' is unknown; this model has full, balanced, fast"),
        ({"operating_point": 3}, "operating point 3"),
        ({"operating_point": PruningPolicy.static((13,))}, "12 queries and 2 layers"),
        ({"operating_point": PruningPolicy.static((), 3)}, "12 queries and 2 layers"),
    ],
    ids=str,
)
def test_bad_arguments(
    predictor: Predictor, photo: Picture, arguments: dict[str, object], said: str
) -> None:
    for call in (predictor.predict, predictor.stream):
        with pytest.raises(InputError, match=said):
            call(photo, names=NAMES, **arguments)  # type: ignore[operator]


@pytest.mark.parametrize("policy", [None, PRUNED, PruningPolicy.static((6, 3), 1)], ids=str)
def test_a_stream_ends_with_what_predict_gives(
    predictor: Predictor, photo: Picture, policy: PruningPolicy | None
) -> None:
    answers = list(predictor.stream(photo, names=NAMES, threshold=0.1, operating_point=policy))
    equal(answers[-1], predictor.predict(photo, names=NAMES, threshold=0.1, operating_point=policy))
    assert [one.receipt.layers for one in answers if one.receipt] == list(range(len(answers)))
    assert len(answers) == (2 if policy and policy.layers == 1 else 3)
    for layers, one in enumerate(answers):
        early = PruningPolicy(layers=layers) if policy is None else None
        if early is not None:
            equal(one, predictor.predict(photo, names=NAMES, threshold=0.1, operating_point=early))


def test_a_stream_can_be_left_and_refuses_lists(predictor: Predictor, photo: Picture) -> None:
    calls: list[int] = []
    handle = predictor.network.decoder.layers[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        first = next(predictor.stream(photo, names=NAMES, threshold=0.0))
    finally:
        handle.remove()
    assert len(first) > 0
    assert not calls
    assert not torch.is_inference_mode_enabled()
    assert [len(one) for one in predictor.stream(photo, names=[])] == [0]
    with pytest.raises(InputError, match="one picture"):
        predictor.stream([photo], names=NAMES)  # type: ignore[arg-type]


def test_points_come_with_the_model(folder: Path, photo: Picture) -> None:
    model = mobius_seg.load(folder, "cpu", text_encoder=HashEncoder())
    found = model.predict(photo, names=NAMES, operating_point="balanced", threshold=0.0)
    equal(found, model.predict(photo, names=NAMES, operating_point=PRUNED, threshold=0.0))
    assert found.receipt is not None
    assert found.receipt.queries[-1] < 12


def test_saving_other_weights_removes_the_points(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    save_model(lively_network(), tmp_path / "model")
    assert not (tmp_path / "model" / "operating_points.json").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"format": 1', '"format": 2', "format 1"),
        ('"full"', '"fool"', "holds 'full'"),
        ('"mask_ap": 0.5', '"mask_ap": "good"', "must hold finite numbers"),
        ('"least": 3', '"least": 0', "balanced: PruningPolicy.least"),
        ('"layers": null', '"layers": 1', "policy of 'full' prunes"),
        ("12,", "13,", "12 queries and 2 layers"),
        ("{", "[", "cannot be read"),
    ],
)
def test_loading_points_is_strict(
    folder: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    text = (folder / "operating_points.json").read_text()
    assert old in text
    (tmp_path / "operating_points.json").write_text(text.replace(old, new, 1))
    config = lively_network().config
    with pytest.raises(InputError, match=said) as caught:
        load_points(tmp_path, config)
    assert "operating_points.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_segment_takes_both(
    folder: Path, tmp_path: Path, photo: Picture, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobius_seg.predictor.default_encoder", HashEncoder)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo).save("a.png")
    common = ["segment", "a.png", "--names", "cup", "--model", str(folder), "--out", "out"]
    assert main([*common, "--operating-point", "balanced", "--budget", "1layer"]) == 0
    receipt = json.loads(Path("out/a.json").read_text())["receipt"]
    assert receipt["layers"] == 1
    assert receipt["queries"] == [12, 12]
    parts = [value for key, value in receipt["gmac"].items() if key != "total"]
    assert receipt["gmac"]["total"] == pytest.approx(sum(parts), abs=1e-5)
    capsys.readouterr()
    assert main([*common, "--operating-point", "quick"]) == 2
    assert main([*common, "--budget", "2"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "this model has full, balanced" in lines[0]
    assert "2.5gmac, 3layers, 80ms" in lines[1]
