"""Fixtures for the tests of the network: a vocabulary and samples that need no text encoder."""

import zlib
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from mobius_seg.data.sample import Sample, Vocabulary
from mobius_seg.text_features import TextFeatures

DIM = 384
WORDS = ("cup", "dog", "tree", "car", "lamp", "boat", "spoon", "chair", "kite", "shoe")


def _vector(text: str, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    return torch.nn.functional.normalize(torch.randn(dim, generator=generator), dim=0)


class WordEncoder:
    """A vector per word from its checksum; pooled = mean of the words."""

    identity = "words-by-checksum"

    def __init__(self, dim: int = DIM) -> None:
        self.dim = dim

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        tokens = [torch.stack([_vector(word, self.dim) for word in t.split()]) for t in texts]
        pooled = [torch.nn.functional.normalize(table.mean(0), dim=0) for table in tokens]
        return TextFeatures.stack(pooled, tokens, self.dim)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Networks that a test builds get the same weights in any order of the tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def words() -> WordEncoder:
    return WordEncoder()


@pytest.fixture(scope="session")
def vocabulary(words: WordEncoder) -> Vocabulary:
    return Vocabulary(WORDS, words.encode(WORDS).pooled_KD, words)


@pytest.fixture(scope="session")
def make_sample() -> Callable[..., Sample]:
    """Sample of random pixels with a rectangle per box; ``boxes`` are xyxy pixels."""

    def make(
        boxes: Sequence[Sequence[float]] = ((4, 8, 30, 40), (33, 20, 60, 61)),
        size: tuple[int, int] = (64, 64),
        with_masks: bool = True,
        seed: int = 0,
        **known: object,
    ) -> Sample:
        height, width = size
        generator = torch.Generator().manual_seed(seed)
        masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
            mask[round(y0) : round(y1), round(x0) : round(x1)] = True
        return Sample(
            image=torch.randint(0, 256, (3, height, width), generator=generator).byte(),
            boxes_xyxy=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            masks=masks if with_masks else None,
            **{"names": None, **known},  # type: ignore[arg-type]
        )

    return make
