"""Other ways to ask for names: what they are, and that samples are asked by them."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from mobius_seg.data.names import head_noun
from mobius_seg.data.sample import Batch, Sample, Vocabulary, collate
from mobius_seg.data.split import NEAR, read_split
from mobius_seg.data.wordings import (
    Wordings,
    article,
    plural,
    read_kinds,
    synonyms,
    wordings,
)
from mobius_seg.text import MiniLMEncoder
from mobius_seg.text_features import TextFeatures

NAMES = ("sofa", "cat", "spoon", "yin yang")


class Letters:
    """Encodes a text as letter counts: different texts, different vectors."""

    dim = 27
    identity = "letters"

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        rows = [vector(text) for text in texts]
        return TextFeatures.stack(rows, [row[None] for row in rows], self.dim)


def vector(text: str) -> Tensor:
    counts = [text.count(chr(97 + i)) for i in range(26)] + [len(text)]
    return torch.nn.functional.normalize(torch.tensor(counts).float(), dim=0)


def make_vocabulary() -> Vocabulary:
    vectors = torch.stack([vector(name) for name in NAMES])
    return Vocabulary(NAMES, vectors, other=Wordings.of(NAMES, Letters()))


def make_sample(*names: str) -> Sample:
    return Sample(
        image=torch.zeros(3, 32, 32, dtype=torch.uint8),
        boxes_xyxy=torch.tensor([[1.0, 1.0, 9.0, 9.0]] * len(names)).reshape(-1, 4),
        masks=torch.ones(len(names), 32, 32, dtype=torch.bool),
        names=names,
    )


def make_batch(samples: list[Sample], seed: int, ratio: float = 1.0) -> Batch:
    rng = np.random.default_rng(seed)
    return collate(samples, make_vocabulary(), rng, (4, 4), wording_ratio=ratio)


@pytest.mark.parametrize(
    ("name", "many"),
    [
        ("cup", "cups"),
        ("wine glass", "wine glasses"),
        ("box", "boxes"),
        ("strawberry", "strawberries"),
        ("monkey", "monkeys"),
        ("old woman", "old women"),
        ("slice of cake", "slices of cake"),
        ("kitchen knife", "kitchen knives"),
        ("person in a wheelchair", "people in a wheelchair"),
        ("scissors", "scissors"),
        ("paperclips", "paperclips"),
        ("bread", "bread"),
        ("bus", "buses"),
        ("nut and bolt", "nut and bolt"),
        ("fork and knife", "fork and knife"),
        ("jellyfish", "jellyfish"),
    ],
)
def test_plurals(name: str, many: str) -> None:
    assert plural(name) == many


def test_articles() -> None:
    assert [article(name) for name in ("apple", "cup", "unicorn", "umbrella")] == [
        "an",
        "a",
        "a",
        "an",
    ]


def test_wordings_of_a_name() -> None:
    found = wordings("sofa")
    assert {"couch", "settee", "a sofa", "sofas", "couches", "a photo of a sofa"} <= set(found)
    assert "sofa" not in found


def test_no_wording_and_no_kind_is_another_name() -> None:
    split = read_split()
    assert plural("beer mug") in split
    assert not {text for name in split for text in wordings(name)} & set(split)
    for kind, members in read_kinds().items():
        assert kind not in split
        assert {split[member] for member in members} == {"base"}


def test_synonyms_are_far_from_the_names_kept_for_testing() -> None:
    """What would be near a novel name, by the rule of the split, is not trained on as a synonym."""
    split = read_split()
    novel = [name for name, side in split.items() if side == "novel"]
    texts = [text for name in split for text in synonyms(name)]
    encoder = MiniLMEncoder()
    near = encoder.encode(texts).pooled_KD @ encoder.encode(novel).pooled_KD.T >= NEAR
    nouns = {head_noun(name) for name in novel}
    assert [text for text, row in zip(texts, near, strict=True) if bool(row.any())] == []
    assert [text for text in texts if head_noun(text) in nouns] == []


def test_no_text_is_asked_for_two_names() -> None:
    names = ("glass", "eyeglasses", "couch", "sofa")
    other = Wordings.of(names, Letters())
    couch = vector("couch")
    assert all(float((own @ couch).max()) < 0.9999 for own in other.vectors[3:])


def test_every_name_has_other_wordings() -> None:
    assert all(wordings(name) for name in read_split())


def test_names_are_asked_in_other_words() -> None:
    plain = make_batch([make_sample("yin yang")], 0, ratio=0.0)
    other = make_batch([make_sample("yin yang")], 0)
    own = torch.stack([vector(name) for name in NAMES])
    near = (plain.prompt.pooled_BKD[0] @ own.T).amax(1)
    assert near == pytest.approx(torch.ones(4), abs=1e-5)
    column = int(other.targets[0].columns_MK[0].nonzero())
    allowed = torch.stack([vector(text) for text in wordings("yin yang")])
    asked = other.prompt.pooled_BKD[0, column]
    assert float((allowed @ asked).max()) == pytest.approx(1.0, abs=1e-5)
    assert float(own[3] @ asked) < 0.9999


def test_images_are_asked_for_kinds() -> None:
    batch = make_batch([make_sample("cat", "sofa"), make_sample("yin yang")], 3)
    kinds = list(read_kinds())
    vectors = torch.stack([vector(kind) for kind in kinds])
    mask_BK = batch.prompt.pooled_mask_BK
    assert mask_BK is not None
    asked = mask_BK[0].nonzero()[:, 0].tolist()
    assert len(asked) >= len(kinds) // 2
    assert bool(batch.targets[0].columns_MK[:, asked].any(1).all())  # both kinds are among them
    assert bool(batch.targets[1].columns_MK.any())
    for column in asked:
        kind = kinds[int((vectors @ batch.prompt.pooled_BKD[0, column]).argmax())]
        assert bool(batch.targets[0].columns_MK[0, column]) == (kind == "animal")
        assert bool(batch.targets[0].columns_MK[1, column]) == (kind in {"furniture", "seat"})
        assert bool(batch.targets[0].known_K[column])
        assert not bool(mask_BK[1, column])  # a symbol is of no kind, so it is asked by its name
    assert batch.targets[0].rows_M is not None
    assert batch.targets[0].rows_M.tolist() == [1, 0]


def test_without_a_ratio_nothing_changes() -> None:
    samples = [make_sample("cat", "sofa"), make_sample("spoon")]
    plain = Vocabulary(NAMES, torch.stack([vector(name) for name in NAMES]))
    first = collate(samples, plain, np.random.default_rng(5), (2, 4))
    second = make_batch(samples, 5, ratio=0.0)
    third = collate(samples, make_vocabulary(), np.random.default_rng(5), (2, 4))
    assert third.prompt.pooled_BKD.equal(first.prompt.pooled_BKD)
    assert second.targets[1].known_K.all()
