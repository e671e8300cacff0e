"""Samples of every kind become one batch: columns, their masks, trusted negatives, boxes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from mobius_seg.data.sample import Batch, Sample, Vocabulary, collate
from mobius_seg.errors import InputError
from mobius_seg.text_features import TextEncoder

Make = Callable[..., Sample]


def column(batch: Batch, vocabulary: Vocabulary, name: str, image: int = 0) -> int:
    """Where a name's vector stands in the prompt of an image."""
    wanted = vocabulary.embeddings_KD[vocabulary.row(name)]
    (found,) = (batch.prompt.pooled_BKD[image] == wanted).all(-1).nonzero(as_tuple=True)
    assert len(found) == 1
    return int(found[0])


@pytest.fixture
def batch(make_sample: Make, vocabulary: Vocabulary) -> Batch:
    samples = [
        make_sample(names=("cup", "dog"), seed=1),
        make_sample(expression="the tall lamp", referred=(1,), names=("lamp", "lamp"), seed=2),
        make_sample(names=None, seed=3),
        make_sample(names=("car", "car"), exhaustive=False, absent=("tree",), seed=4),
    ]
    return collate(samples, vocabulary, np.random.default_rng(1), (2, 4))


def test_images_and_boxes(batch: Batch) -> None:
    assert batch.images_B3HW.shape == (4, 3, 64, 64)
    assert batch.images_B3HW.dtype == torch.uint8
    wanted = torch.tensor([[17, 24, 26, 32], [46.5, 40.5, 27, 41]]) / 64
    torch.testing.assert_close(batch.targets[0].boxes_M4, wanted)


def test_boxes_of_an_image_that_is_not_square(make_sample: Make, vocabulary: Vocabulary) -> None:
    sample = make_sample(boxes=((0, 0, 64, 32), (96, 16, 128, 32)), size=(32, 128))
    target = collate([sample], vocabulary, np.random.default_rng(0)).targets[0]
    wanted = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.875, 0.75, 0.25, 0.5]])
    torch.testing.assert_close(target.boxes_M4, wanted)


def test_names_are_columns(batch: Batch, vocabulary: Vocabulary) -> None:
    target, prompt = batch.targets[0], batch.prompt
    assert prompt.pooled_mask_BK is not None
    cup, dog = (column(batch, vocabulary, name) for name in ("cup", "dog"))
    assert target.columns_MK.nonzero().tolist() == [[0, cup], [1, dog]]
    assert bool(prompt.pooled_mask_BK[0].all())
    assert bool(target.known_K.all())  # exhaustive: every other name is known to be absent
    assert target.has_object


def test_an_expression_is_the_only_column(batch: Batch, vocabulary: Vocabulary) -> None:
    target, prompt = batch.targets[1], batch.prompt
    assert prompt.pooled_mask_BK is not None
    assert prompt.tokens_BTD is not None
    assert prompt.tokens_mask_BT is not None
    assert vocabulary.encoder is not None
    features = vocabulary.encoder.encode(["the tall lamp"])
    assert prompt.pooled_mask_BK[1].nonzero().tolist() == [[0]]
    assert torch.equal(prompt.pooled_BKD[1, 0], features.pooled_KD[0])
    assert not prompt.pooled_BKD[1, 1:].any()
    assert torch.equal(prompt.tokens_BTD[1], features.tokens_KTD[0])
    assert prompt.tokens_mask_BT.any(1).tolist() == [False, True, False, False]
    assert not prompt.tokens_BTD[[0, 2, 3]].any()
    assert target.columns_MK.nonzero().tolist() == [[1, 0]]
    assert target.known_K.nonzero().tolist() == [[0]]


def test_without_names_there_is_no_column(batch: Batch) -> None:
    target, prompt = batch.targets[2], batch.prompt
    assert prompt.pooled_mask_BK is not None
    assert not prompt.pooled_mask_BK[2].any()
    assert not target.columns_MK.any()
    assert not target.known_K.any()
    assert target.has_object


def test_federated_names(batch: Batch, vocabulary: Vocabulary) -> None:
    """Only what is present and what is known to be absent may be a negative."""
    target, prompt = batch.targets[3], batch.prompt
    assert prompt.pooled_mask_BK is not None
    car, tree = (column(batch, vocabulary, name) for name in ("car", "tree"))
    assert sorted(target.known_K.nonzero().flatten().tolist()) == sorted([car, tree])
    assert target.columns_MK.nonzero().tolist() == [[0, car], [1, car]]
    assert bool(prompt.pooled_mask_BK[3].all())
    assert not target.has_object


def test_every_image_sees_the_same_names_in_random_order(
    make_sample: Make, vocabulary: Vocabulary
) -> None:
    samples = [make_sample(names=("cup", "dog")), make_sample(names=("car", "dog"), seed=1)]
    seen = set()
    for seed in range(8):
        batch = collate(samples, vocabulary, np.random.default_rng(seed), (3, 3))
        assert torch.equal(batch.prompt.pooled_BKD[0], batch.prompt.pooled_BKD[1])
        assert batch.prompt.tokens_BTD is None
        seen.add(column(batch, vocabulary, "cup"))
    assert len(seen) > 2


def test_number_of_negatives(make_sample: Make, vocabulary: Vocabulary) -> None:
    sample = make_sample(names=("cup", "cup"))

    def columns(seed: int, negatives: tuple[int, int]) -> int:
        rng = np.random.default_rng(seed)
        return collate([sample], vocabulary, rng, negatives).prompt.pooled_BKD.shape[1]

    assert {columns(seed, (0, 0)) for seed in range(4)} == {1}
    assert {columns(seed, (4, 4)) for seed in range(8)} <= {4, 5}
    assert {columns(seed, (500, 900)) for seed in range(4)} == {len(vocabulary.names)}
    assert len({columns(seed, (1, 9)) for seed in range(12)}) > 3


def test_the_generator_decides(make_sample: Make, vocabulary: Vocabulary) -> None:
    samples = [make_sample(names=("cup", "dog"))]
    first, second, other = (
        collate(samples, vocabulary, np.random.default_rng(seed), (2, 6)).prompt.pooled_BKD
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, second)
    assert first.shape != other.shape or not torch.equal(first, other)


def test_class_agnostic_batch_has_no_column(make_sample: Make, vocabulary: Vocabulary) -> None:
    batch = collate([make_sample(), make_sample(seed=1)], vocabulary, np.random.default_rng(0))
    assert batch.prompt.pooled_BKD.shape == (2, 0, 384)
    assert all(t.columns_MK.shape == (2, 0) for t in batch.targets)


def test_image_without_an_object(make_sample: Make, vocabulary: Vocabulary) -> None:
    samples = [make_sample(boxes=(), names=()), make_sample(names=("cup", "cup"))]
    target = collate(samples, vocabulary, np.random.default_rng(0), (2, 2)).targets[0]
    assert target.boxes_M4.shape == (0, 4)
    assert bool(target.known_K.all())  # every name is known to be absent


def test_only_expressions_need_an_encoder(
    make_sample: Make, vocabulary: Vocabulary, words: TextEncoder
) -> None:
    silent = Vocabulary(vocabulary.names, vocabulary.embeddings_KD)
    rng = np.random.default_rng(0)
    collate([make_sample(names=("cup", "dog"))], silent, rng)
    spoken = make_sample(expression="the cup", referred=(0,))
    with pytest.raises(InputError, match="text encoder"):
        collate([spoken], silent, rng)
    assert collate([spoken], vocabulary, rng).prompt.pooled_BKD.shape == (1, 1, words.dim)


def test_bad_input(make_sample: Make, vocabulary: Vocabulary) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="one size"):
        collate([make_sample(), make_sample(size=(96, 64))], vocabulary, rng)
    with pytest.raises(InputError, match="'unicorn'"):
        collate([make_sample(names=("cup", "unicorn"))], vocabulary, rng)
    with pytest.raises(InputError, match="2 names but 3"):
        Vocabulary(["a", "b"], torch.zeros(3, 4))


def test_masks_are_handed_on(make_sample: Make, vocabulary: Vocabulary) -> None:
    sample = make_sample(names=("cup", "dog"))
    rng = np.random.default_rng(0)
    assert collate([sample], vocabulary, rng).targets[0].masks_MHW is sample.masks
    assert collate([replace(sample, masks=None)], vocabulary, rng).targets[0].masks_MHW is None


def test_a_name_for_every_box() -> None:
    sample = Sample(
        image=torch.zeros(3, 32, 32, dtype=torch.uint8),
        boxes_xyxy=torch.tensor([[0.0, 0.0, 8.0, 8.0]]),
        masks=None,
        names=(),
    )
    vocabulary = Vocabulary(["cup"], torch.ones(1, 4))
    with pytest.raises(InputError, match="0 names for 1 boxes"):
        collate([sample], vocabulary, np.random.default_rng(0))


def test_an_empty_image_learns_that_names_are_absent() -> None:
    empty = Sample(
        image=torch.zeros(3, 32, 32, dtype=torch.uint8),
        boxes_xyxy=torch.zeros(0, 4),
        masks=None,
        names=(),
    )
    vocabulary = Vocabulary([f"n{i}" for i in range(30)], torch.eye(30))
    batch = collate([empty], vocabulary, np.random.default_rng(0), negatives=(5, 10))
    assert 5 <= batch.prompt.pooled_BKD.shape[1] <= 10
    assert batch.targets[0].known_K.all()
