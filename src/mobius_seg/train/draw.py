"""Which source every sample of a mixture comes from."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobius_seg.train.mixture import BLOCK, Source, block_counts

_DRAW_STREAM = 13


class Draw:
    """Which source every sample of a mixture comes from, and which of that source's it is.

    Sample ``i`` depends on (seed, i) alone. In each block of ``BLOCK`` samples the sources come in
    random order, each as often as its ratio says, so that a source's own samples are taken in turn
    and none is left out.

    Args:
        sources: at least one.
        seed: whole number >= 0.
    """

    def __init__(self, sources: Sequence[Source], seed: int) -> None:
        """See the class."""
        self.seed = seed
        self.counts = block_counts(sources)
        self._block = (-1, np.zeros(0, np.int64), np.zeros(0, np.int64))

    def at(self, index: int) -> tuple[int, int]:
        """Number of the source of sample ``index``, and the sample's own index there."""
        block, place = divmod(index, BLOCK)
        if self._block[0] != block:
            rng = np.random.default_rng((self.seed, _DRAW_STREAM, block))
            order = rng.permutation(np.repeat(np.arange(len(self.counts)), self.counts))
            self._block = (block, order, _ranks(order, len(self.counts)))
        _, order, rank = self._block
        source = int(order[place])
        return source, block * self.counts[source] + int(rank[place])


def _ranks(order: NDArray[np.int64], sources: int) -> NDArray[np.int64]:
    """How often each entry's source came before it."""
    rank = np.zeros_like(order)
    for source in range(sources):
        mine = order == source
        rank[mine] = np.arange(np.count_nonzero(mine))
    return rank
