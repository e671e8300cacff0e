"""Large vocabularies: chunks change nothing, the shortlist keeps what tokens support."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.support.models import DIM, HashEncoder, lively_network
from torch import Tensor
from torch.nn import functional

from mobius_seg import fusion, selection, vocabulary
from mobius_seg.cost import closed
from mobius_seg.cost.dispatch import OperatorCounter
from mobius_seg.cost.parts import SELECTION
from mobius_seg.instances import Instances
from mobius_seg.model import Mobius
from mobius_seg.predictor import Predictor
from mobius_seg.pruned_decoder import run_pruned
from mobius_seg.pruning import PruningPolicy
from mobius_seg.types import Encoded, TextPrompt

WORDS = [f"thing {i}" for i in range(40)]


@pytest.fixture(scope="module")
def network() -> Mobius:
    return lively_network()


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty names are a large vocabulary, in chunks of seven."""
    for module in (selection, vocabulary, closed):
        monkeypatch.setattr(module, "MANY", 10)
    monkeypatch.setattr(selection, "_NAMES_AT_ONCE", 7)
    monkeypatch.setattr(selection, "_TOKENS_AT_ONCE", 5)
    monkeypatch.setattr(fusion, "_TEXT_CHUNK", 7)


def _names(count: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return functional.normalize(torch.randn(batch, count, DIM, generator=generator), dim=-1)


def _images(batch: int) -> Tensor:
    return torch.rand(batch, 3, 64, 96, generator=torch.Generator().manual_seed(5))


def _decoded(network: Mobius, encoded: Encoded) -> list[list[Tensor]]:
    """Every tensor of every stage of every image."""
    with torch.inference_mode():
        found = run_pruned(network, encoded, PruningPolicy())
    return [[t for layer in one.output.layers for t in layer.tensors()] for one in found]


@pytest.mark.parametrize("masked", [False, True])
def test_chunks_of_names_change_nothing(
    network: Mobius, masked: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    mask = None
    if masked:
        mask = torch.arange(40) < torch.tensor([[40], [3]])
    prompt = TextPrompt(_names(40, 2), mask)
    with torch.inference_mode():
        whole = network.encode(_images(2), prompt)
        expected = _decoded(network, whole)
        request.getfixturevalue("few_are_many")
        assert network.decoder.selection._has_many(whole.text_BKC)
        found = _decoded(network, network.encode(_images(2), prompt))
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_selection_holds_no_logit_of_every_token(network: Mobius, few_are_many: None) -> None:
    """The largest tensor that the product with the names makes is a chunk of it."""
    seen: list[int] = []
    compare = selection.CosineClassifier.compare

    def spy(self: selection.CosineClassifier, vectors: Tensor, text: Tensor) -> Tensor:
        found = compare(self, vectors, text)
        seen.append(found.shape[1] * found.shape[2])
        return found

    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection.CosineClassifier, "compare", spy)
        encoded = network.encode(_images(1), TextPrompt(_names(40)))
        _decoded(network, encoded)
    tokens = (64 // 8) * (96 // 8) + (64 // 16) * (96 // 16)
    assert max(seen) == max(tokens * 7, network.config.queries * 40)


def test_training_sees_every_logit(network: Mobius, few_are_many: None) -> None:
    trained = lively_network().train()
    assert not trained.decoder.selection._has_many(_names(40))
    output = trained(_images(2), TextPrompt(_names(40)))
    assert output.dense is not None
    assert output.dense.logits_BNK.shape[2] == 40


def test_a_shortlist_of_all_names_changes_nothing(network: Mobius) -> None:
    with torch.inference_mode():
        encoded = network.encode(_images(2), TextPrompt(_names(40)))
        short, lag_B = vocabulary.shortlist(network, encoded, 40)
    assert short.columns_BK is not None
    assert torch.equal(short.columns_BK, torch.arange(40).expand(2, 40))
    assert lag_B.isinf().all()
    for ours, theirs in zip(_decoded(network, short), _decoded(network, encoded), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_the_shortlist_keeps_the_best_names_and_states_its_bound(network: Mobius) -> None:
    """With every token asked, no name that is left out comes within the lag of any token's best."""
    with torch.inference_mode():
        encoded = network.encode(_images(1), TextPrompt(_names(40)))
        logits_NK = _every_logit(network, encoded)
        for keep in (5, 12, 30):
            short, lag_B = vocabulary.shortlist(network, encoded, keep)
            assert short.columns_BK is not None
            kept = short.columns_BK[0].tolist()
            assert kept == sorted(set(kept))
            assert len(kept) == keep
            lag_K = (logits_NK.amax(1, keepdim=True) - logits_NK).amin(0)
            left = [k for k in range(40) if k not in kept]
            assert lag_K[left].min() >= lag_K[kept].max() - 1e-5
            assert float(lag_B[0]) == pytest.approx(float(lag_K[left].min()), abs=1e-4)
            torch.testing.assert_close(short.text_BKC[0], encoded.text_BKC[0, kept])


def _every_logit(network: Mobius, encoded: Encoded) -> Tensor:
    chosen = network.decoder.selection
    normed = chosen.norm(chosen._tokens(encoded.maps)[0])
    assert normed.shape[1] < selection.LIKELIEST
    logits, _ = chosen.classifier(
        normed, chosen._seen(encoded.maps, encoded.names), encoded.text_BKC, network.object_column
    )
    return logits[0]


def test_columns_that_are_not_real_leave_first(network: Mobius) -> None:
    mask = torch.arange(40) < torch.tensor([[40], [6]])
    with torch.inference_mode():
        encoded = network.encode(_images(2), TextPrompt(_names(40, 2), mask))
        short, _ = vocabulary.shortlist(network, encoded, 20)
    assert short.columns_BK is not None
    assert short.column_mask_BK is not None
    assert short.columns_BK[1, :6].tolist() == list(range(6))
    assert short.column_mask_BK.sum(1).tolist() == [20, 6]


def _same(ours: Instances, theirs: Instances) -> bool:
    scores = np.allclose(ours.scores, theirs.scores, atol=1e-5)
    return scores and ours.names == theirs.names and ours.rles == theirs.rles


def test_predictions_with_and_without_pruning_agree(
    photo: NDArray[np.uint8], few_are_many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of the results are those of the whole vocabulary, at their own positions."""
    model = Predictor(lively_network(), text_encoder=HashEncoder(), device="cpu")
    asked = {"names": WORDS, "threshold": 0.0, "nms_iou": 1.0}
    model.vocabulary.kept = None
    exact = model.predict(photo, **asked)
    assert exact.receipt is not None
    assert exact.receipt.shortlist == 0
    model.vocabulary.kept = 25
    pruned = model.predict(photo, **asked)
    assert pruned.receipt is not None
    assert pruned.receipt.shortlist == 25
    assert len(set(exact.names)) > 1
    assert _same(pruned, exact)
    batch = model.predict([photo, photo[:40]], **asked)
    assert _same(batch[0], exact)
    named = model.predict([photo, photo], **(asked | {"names": [WORDS, WORDS[:3]]}))
    assert _same(named[0], exact)
    assert set(named[1].names) <= set(WORDS[:3])


def test_few_names_stay_as_they_are(photo: NDArray[np.uint8]) -> None:
    model = Predictor(lively_network(), text_encoder=HashEncoder(), device="cpu")
    found = model.predict(photo, names=WORDS, threshold=0.0)
    assert found.receipt is not None
    assert (found.receipt.shortlist, found.receipt.text_known) == (0, False)
    assert model.vocabulary.lag_B is None


def test_large_vocabularies_are_encoded_and_projected_once(
    photo: NDArray[np.uint8], few_are_many: None
) -> None:
    encoder, net = HashEncoder(), lively_network()
    model = Predictor(net, text_encoder=encoder, device="cpu")
    first = model.predict(photo, names=WORDS, threshold=0.0)
    count = len(encoder.encoded)
    again = model.predict(photo, names=list(WORDS), threshold=0.0)
    assert len(encoder.encoded) == count
    assert _same(first, again)
    assert first.receipt is not None
    assert again.receipt is not None
    assert first.receipt.gmac["text"] > 0
    assert again.receipt.gmac["text"] == 0
    with torch.no_grad():  # other weights: what is remembered no longer holds
        net.text_projection.weight.neg_()
    changed = model.predict(photo, names=WORDS, threshold=0.0)
    assert changed.receipt is not None
    assert changed.receipt.gmac["text"] > 0
    fresh = Predictor(net, text_encoder=encoder, device="cpu")
    assert _same(changed, fresh.predict(photo, names=WORDS, threshold=0.0))


@pytest.mark.parametrize("kept", [None, 25])
def test_receipts_of_large_vocabularies_are_what_was_executed(
    photo: NDArray[np.uint8], few_are_many: None, kept: int | None
) -> None:
    model = Predictor(lively_network(), text_encoder=HashEncoder(), device="cpu")
    model.vocabulary.kept = kept
    model.predict(photo, names=WORDS)  # encodes the words, which is no part of the network
    counter = OperatorCounter()
    # What runs between the modules is the shortlist's product, and the masks.
    with counter.following(model.network), counter, counter.inside(SELECTION):
        found = model.predict(photo, names=WORDS, threshold=0.0)
    assert found.receipt is not None
    executed = sum(counter.macs.values()) / 1e9
    assert found.receipt.gmac["total"] == pytest.approx(executed, rel=1e-3)


MEMORY = """
import torch
from torch.nn import functional
from mobius_seg.checkpoint import load_model
from mobius_seg.machine import peak_mb
from mobius_seg.pruned_decoder import run_pruned
from mobius_seg.pruning import PruningPolicy
from mobius_seg.types import TextPrompt
torch.set_num_threads(1)
network = load_model("mobius-test", random_weights=True)
images = torch.rand(1, 3, 256, 256)
with torch.inference_mode():
    for names in (2000, 20000):
        text = functional.normalize(torch.randn(1, names, 384), dim=-1)
        encoded = network.encode(images, TextPrompt(text))
        run_pruned(network, encoded, PruningPolicy())
        print(peak_mb())
"""


def test_memory_grows_with_the_names_alone() -> None:
    """1,280 tokens and 18,000 names more are 92 MB for each copy of all their logits."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    few, many = (float(line) for line in done.stdout.split())
    vectors = 18_000 * 384 * 4 / 1e6  # 28 MB; a handful of copies of these on the way
    assert many - few < 5 * vectors
