"""The expressions of a COCO data set as samples: a picture, a text, and the instance it means."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mobius_seg.data.coco import CocoSamples
from mobius_seg.data.referring import ReferringExpression
from mobius_seg.data.sample import Sample
from mobius_seg.errors import InputError


class ReferringSamples:
    """Expressions in random order, every pass a new permutation; index i depends on (seed, i).

    Pictures are scaled to the size and padded, but neither cut nor flipped, which would change what
    is leftmost or largest. An instance that vanishes at the size leaves its text without an answer.

    Args:
        pictures: the data set.
        expressions: as :func:`~mobius_seg.data.referring.read_expressions` gives them.
        file: where they were read, for the message.
        size: side of the square samples in pixels.
        seed: of the permutations.

    Raises:
        InputError: there is no expression.
    """

    def __init__(
        self,
        pictures: CocoSamples,
        expressions: Sequence[ReferringExpression],
        file: Path,
        size: int,
        seed: int = 0,
    ) -> None:
        """See the class."""
        if not expressions:
            raise InputError(f"{file}: holds no expression to learn from; allowed: at least one")
        self._pictures, self._expressions = pictures.sized(size), expressions
        self._seed = seed

    def __getitem__(self, index: int) -> Sample:
        """Sample of an index >= 0."""
        count = len(self._expressions)
        order = np.random.default_rng((self._seed, 1, index // count)).permutation(count)
        chosen = self._expressions[int(order[index % count])]
        sample, rows = self._pictures.with_rows(chosen.image)
        referred = (rows.index(chosen.annotation),) if chosen.annotation in rows else ()
        return replace(sample, expression=chosen.text, referred=referred)
