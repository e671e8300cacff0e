"""One image and what is known about it, and how samples become a batch.

There is no branch per data set: a sample says what it knows (boxes, masks, names, an expression),
and a loss term applies where its target exists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mobius_seg.data.wordings import Wordings
from mobius_seg.errors import InputError
from mobius_seg.text import TextEncoder
from mobius_seg.text_features import pad_sequences
from mobius_seg.types import TextPrompt


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One annotated image.

    Attributes:
        image: uint8 [3, H, W], RGB.
        boxes_xyxy: float32 [M, 4] in pixels.
        masks: bool [M, H, W], or None where only boxes are known.
        names: one name per instance, or None where no names are known (class-agnostic).
        exhaustive: True when every instance of every name is annotated, so that a name that is not
            among ``names`` is known to be absent.
        searched: the names that ``exhaustive`` speaks of; None = every name of the training.
        every_object: True when, besides, nothing is left out that has none of these names.
        absent: names known to be absent (federated annotation); used when not exhaustive.
        expression: a referring expression for this image, or None.
        referred: indices of the instances that the expression means.
    """

    image: Tensor
    boxes_xyxy: Tensor
    masks: Tensor | None
    names: tuple[str, ...] | None
    exhaustive: bool = True
    searched: frozenset[str] | None = None
    every_object: bool = True
    absent: tuple[str, ...] = ()
    expression: str | None = None
    referred: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the losses compare one image with.

    Attributes:
        boxes_M4: cxcywh in 0..1.
        masks_MHW: bool, or None where no masks are known.
        columns_MK: bool [M, K], True where column k of the prompt names instance m.
        known_K: bool [K], True where column k is a trusted negative for instances it does not name.
        has_object: True when every object of the image is annotated (trusts the object column).
        rows_M: int64 [M], row of each instance's name in the training vocabulary, or None where no
            names are known.
    """

    boxes_M4: Tensor
    masks_MHW: Tensor | None
    columns_MK: Tensor
    known_K: Tensor
    has_object: bool
    rows_M: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images, one prompt for all of them, and the targets.

    Attributes:
        images_B3HW: uint8.
        prompt: the vocabulary of this step; masked columns differ by image.
        targets: one per image.
    """

    images_B3HW: Tensor
    prompt: TextPrompt
    targets: list[Target]


class SampleSource(Protocol):
    """Samples by index, any index >= 0."""

    def __getitem__(self, index: int) -> Sample:
        """Sample of an index."""


class Vocabulary:
    """Names with their text vectors, and an encoder for what is not among them.

    Args:
        names: the names that can be drawn as negatives.
        embeddings_KD: one L2-normalised vector per name, [K, D].
        encoder: encodes expressions; None where only ``names`` occur.
        name_encoder: encodes the sub-words of names; None takes ``encoder``.
        other: other ways to ask for the names; None where they are asked for as they are.
    """

    def __init__(
        self,
        names: Sequence[str],
        embeddings_KD: Tensor,
        encoder: TextEncoder | None = None,
        name_encoder: TextEncoder | None = None,
        other: Wordings | None = None,
    ) -> None:
        """See the class."""
        if len(names) != len(embeddings_KD):
            raise InputError(f"{len(names)} names but {len(embeddings_KD)} embeddings")
        self.names = list(names)
        self.embeddings_KD = embeddings_KD.float()
        self.encoder = encoder
        self.name_encoder = name_encoder or encoder
        self.other = other
        self._row = {name: row for row, name in enumerate(self.names)}

    def row(self, name: str) -> int:
        """Row of a name.

        Raises:
            InputError: the name is not in the vocabulary.
        """
        if name not in self._row:
            raise InputError(f"name {name!r} is not in the training vocabulary")
        return self._row[name]


def collate(
    samples: Sequence[Sample],
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    negatives: tuple[int, int] = (50, 400),
    subwords: bool = False,
    wording_ratio: float = 0.0,
) -> Batch:
    """Join samples into a batch under one vocabulary.

    The names of a step are the positives of all its images plus sampled negatives, in random order;
    their number is drawn log-uniformly so that small and large vocabularies are both trained. Every
    image sees the names that it can say something about; an image with an expression sees one
    column, the expression; an image without names sees none and is asked for every object. With a
    ``wording_ratio`` some names are asked in other words, and some images for kinds of things.

    Args:
        samples: images of equal height and width.
        vocabulary: where names and expressions get their vectors.
        rng: source of the negatives.
        negatives: smallest and largest number of sampled negatives.
        subwords: names bring their sub-words too (``ModelConfig.fuse_subwords``).
        wording_ratio: share of the names that are asked in another wording, and of the images
            that are asked for kinds in place of names; above 0 only where the vocabulary has
            ``other`` wordings.

    Raises:
        InputError: image sizes differ, a sample has not one name per box, or an expression (with
            ``subwords`` a name too) needs an encoder that is not there.
    """
    _check_samples(samples)
    rows = _step_names(samples, vocabulary, rng, negatives)
    name_column = {row: column for column, row in enumerate(rows)}
    kinds = _Kinds.draw(samples, vocabulary, rng, wording_ratio)
    asked_KD = torch.cat([_asked(vocabulary, rows, rng, wording_ratio), kinds.vectors_GD])
    columns = max(len(asked_KD), int(any(s.expression is not None for s in samples)))
    pooled_BKD, tokens, tokens_mask = _prompt_vectors(
        samples, vocabulary, rows, asked_KD, columns, subwords
    )
    mask_BK = torch.zeros(len(samples), columns, dtype=torch.bool)
    targets = []
    for i, sample in enumerate(samples):
        named_MK = torch.zeros(len(sample.boxes_xyxy), columns, dtype=torch.bool)
        known_K = torch.zeros(columns, dtype=torch.bool)
        if sample.expression is not None:
            mask_BK[i, 0] = known_K[0] = True
            named_MK[list(sample.referred), 0] = True
        elif i in kinds.images:
            mask_BK[i, len(rows) : len(asked_KD)] = known_K[len(rows) : len(asked_KD)] = True
            named_MK[:, len(rows) : len(asked_KD)] = kinds.of(sample, vocabulary)
        elif sample.names is not None:
            mask_BK[i, : len(rows)] = True
            known_K[: len(rows)] = _searched(sample, vocabulary, rows)
            for m, name in enumerate(sample.names):
                named_MK[m, name_column[vocabulary.row(name)]] = True
            known_K[[name_column[vocabulary.row(n)] for n in sample.absent + sample.names]] = True
        targets.append(_target(sample, named_MK, known_K, vocabulary))
    prompt = TextPrompt(pooled_BKD, mask_BK, tokens, tokens_mask)
    images_B3HW = torch.stack([sample.image for sample in samples])
    return Batch(images_B3HW=images_B3HW, prompt=prompt, targets=targets)


def _check_samples(samples: Sequence[Sample]) -> None:
    """One name per box, one size for all."""
    for i, sample in enumerate(samples):
        if sample.names is not None and len(sample.names) != len(sample.boxes_xyxy):
            raise InputError(
                f"sample {i} has {len(sample.names)} names for {len(sample.boxes_xyxy)} boxes"
            )
    sizes = {tuple(sample.image.shape) for sample in samples}
    if len(sizes) != 1:
        raise InputError(f"images of one batch must have one size, got {sorted(sizes)}")


def _step_names(
    samples: Sequence[Sample],
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    negatives: tuple[int, int],
) -> list[int]:
    """Rows of the vocabulary that this step uses: positives, known absents, sampled negatives."""
    named = [s for s in samples if s.expression is None and s.names is not None]
    if not named:
        return []
    rows: set[int] = set()
    for sample in named:
        rows.update(vocabulary.row(name) for name in (sample.names or ()) + sample.absent)
    low, high = (min(n, len(vocabulary.names)) for n in negatives)
    wanted = round(float(np.exp(rng.uniform(np.log(max(low, 1)), np.log(max(high, 1))))))
    if high > 0:
        extra = rng.choice(len(vocabulary.names), size=wanted, replace=False)
        rows.update(int(row) for row in extra)
    order = sorted(rows)
    rng.shuffle(order)
    return order


def _asked(
    vocabulary: Vocabulary, rows: list[int], rng: np.random.Generator, ratio: float
) -> Tensor:
    """Text vector of each name of the step, some of them in other words: [K, D]."""
    asked_KD = vocabulary.embeddings_KD[rows]
    if vocabulary.other is not None and ratio > 0:
        for column in np.flatnonzero(rng.random(len(rows)) < ratio):
            asked_KD[column] = vocabulary.other.draw(rng, rows[column])
    return asked_KD


@dataclass(frozen=True)
class _Kinds:
    """Which images of a step are asked for kinds of things, and for which kinds.

    Attributes:
        images: their numbers in the batch.
        which: numbers of the kinds.
        vectors_GD: their text vectors.
    """

    images: frozenset[int]
    which: list[int]
    vectors_GD: Tensor

    @classmethod
    def draw(
        cls,
        samples: Sequence[Sample],
        vocabulary: Vocabulary,
        rng: np.random.Generator,
        ratio: float,
    ) -> "_Kinds":
        """Some of the images whose every object has a kind; half of the kinds or more."""
        other = vocabulary.other
        if other is None or ratio == 0:
            return cls(frozenset(), [], vocabulary.embeddings_KD[:0])
        judged_K = other.member_KG.any(1)
        images = frozenset(
            i
            for i, sample in enumerate(samples)
            if rng.random() < ratio
            and sample.expression is None
            and sample.names
            and sample.exhaustive
            and sample.every_object
            and all(bool(judged_K[vocabulary.row(name)]) for name in sample.names)
        )
        total = len(other.kind_vectors_GD) if images else 0
        count = int(rng.integers((total + 1) // 2, total + 1))
        which = [int(kind) for kind in rng.permutation(total)[:count]]
        return cls(images, which, other.kind_vectors_GD[which])

    def of(self, sample: Sample, vocabulary: Vocabulary) -> Tensor:
        """Which of the kinds each object of an image is of: bool [M, G]."""
        assert vocabulary.other is not None
        assert sample.names is not None
        rows = [vocabulary.row(name) for name in sample.names]
        return vocabulary.other.member_KG[rows][:, self.which]


def _searched(sample: Sample, vocabulary: Vocabulary, rows: list[int]) -> Tensor:
    """Which of the step's names were looked for in a picture, bool [K]."""
    if not sample.exhaustive or sample.searched is None:
        return torch.full((len(rows),), sample.exhaustive)
    searched = [vocabulary.names[row] in sample.searched for row in rows]
    return torch.tensor(searched, dtype=torch.bool)


def _prompt_vectors(
    samples: Sequence[Sample],
    vocabulary: Vocabulary,
    rows: list[int],
    asked_KD: Tensor,
    columns: int,
    subwords: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Pooled vectors [B, K, D]; sub-word tokens of expressions, and of names where wanted."""
    dim = vocabulary.embeddings_KD.shape[1]
    pooled_BKD = torch.zeros(len(samples), columns, dim)
    pooled_BKD[:, : len(asked_KD)] = asked_KD
    spoken = [i for i, sample in enumerate(samples) if sample.expression is not None]
    named = [
        i for i, s in enumerate(samples) if subwords and i not in spoken and s.names is not None
    ]
    if not spoken and not (named and rows):
        return pooled_BKD, None, None
    if (spoken and vocabulary.encoder is None) or (named and vocabulary.name_encoder is None):
        raise InputError("sub-words need a text encoder; this vocabulary has none")
    sequences = [torch.zeros(0, dim)] * len(samples)
    if named:
        assert vocabulary.name_encoder is not None
        names = vocabulary.name_encoder.encode([vocabulary.names[row] for row in rows]).sequence()
        sequences = [names.float() if i in named else none for i, none in enumerate(sequences)]
    if spoken:
        assert vocabulary.encoder is not None
        features = vocabulary.encoder.encode([str(samples[i].expression) for i in spoken])
        pooled_BKD[spoken] = 0.0
        pooled_BKD[spoken, 0] = features.pooled_KD.float()
        for i, tokens_TD, real_T in zip(
            spoken, features.tokens_KTD, features.tokens_mask_KT, strict=True
        ):
            sequences[i] = tokens_TD[real_T].float()
    tokens_BTD, mask_BT = pad_sequences(sequences)
    return pooled_BKD, tokens_BTD, mask_BT


def _target(sample: Sample, named_MK: Tensor, known_K: Tensor, vocabulary: Vocabulary) -> Target:
    """Boxes to cxcywh in 0..1; the rest as it is."""
    height, width = sample.image.shape[1:]
    x0, y0, x1, y1 = (sample.boxes_xyxy.float() / _wh(width, height)).unbind(-1)
    boxes_M4 = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=-1)
    return Target(
        boxes_M4=boxes_M4,
        masks_MHW=sample.masks,
        columns_MK=named_MK,
        known_K=known_K,
        has_object=sample.exhaustive and sample.every_object,
        rows_M=_rows(sample, vocabulary),
    )


def _rows(sample: Sample, vocabulary: Vocabulary) -> Tensor | None:
    """Row of each instance's name in the vocabulary."""
    if sample.names is None:
        return None
    return torch.tensor([vocabulary.row(name) for name in sample.names], dtype=torch.long)


def _wh(width: int, height: int) -> Tensor:
    """Divisor that takes xyxy pixels to 0..1."""
    return torch.tensor([width, height, width, height], dtype=torch.float32)
