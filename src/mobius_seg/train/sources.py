"""The sources of a run, opened once: samples that say what they know, and one vocabulary.

There is no branch per data set in the losses: what a source leaves out (masks, names, which names
are absent) is left out of its samples.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mobius_seg.data.coco import CocoSamples
from mobius_seg.data.coco_file import CocoData
from mobius_seg.data.dataset import ComposedSamples
from mobius_seg.data.pack import Pack
from mobius_seg.data.referring import default_expressions_path, read_expressions
from mobius_seg.data.referring_samples import ReferringSamples
from mobius_seg.data.sample import Sample, SampleSource, Vocabulary
from mobius_seg.data.transforms import AugmentedSamples
from mobius_seg.data.wordings import Wordings
from mobius_seg.text import MiniLMEncoder, default_encoder
from mobius_seg.train.draw import Draw
from mobius_seg.train.mixture import Source

_ABSENT = 5
"""Names stated to be absent from a composed scene of federated names (ours)."""
_ABSENT_STREAM = 17
_LETTERBOX = 0.1  # as for a run without a mixture


class Sources:
    """Every source of a run, its files read and checked.

    Args:
        sources: of all stages.
        pack: file that scenes are composed from; opened where a source needs it.
        subwords: the network reads the sub-words of names.
        enlarge: share of composed scenes that are made smaller and enlarged.
        close: share of composed scenes that are close-ups.
        texture: share of their objects that get the relief of a background.
        wording: share of names asked in other words; above 0 the vocabulary has these.
        photometric: share of the pictures of COCO files changed in light, sharpness or noise.

    Raises:
        InputError: the pack, a COCO file, its expressions or a picture cannot be used.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        pack: Path,
        subwords: bool,
        *,
        enlarge: float = 0.0,
        close: float = 0.0,
        texture: float = 0.0,
        wording: float = 0.0,
        photometric: float = 0.0,
    ) -> None:
        """See the class."""
        self._enlarge, self._close, self._texture = enlarge, close, texture
        self._photometric = photometric
        composed = any(source.kind == "composed" for source in sources)
        self.pack = Pack.open(pack) if composed else None
        self._coco: dict[tuple[Path, Path], CocoSamples] = {}
        for source in sources:
            if source.annotations is not None and source.images is not None:
                key = (source.annotations, source.images)
                if key not in self._coco:
                    self._coco[key] = CocoSamples(*key)
                if source.supervision == "expressions":
                    self._referring(source, 32, 0)
        spoken = any(source.supervision == "expressions" for source in sources)
        self.vocabulary = self._make_vocabulary(spoken, subwords, wording > 0)

    @property
    def files(self) -> list[CocoData]:
        """The COCO files, each once."""
        return [pictures.coco for pictures in self._coco.values()]

    def samples(self, sources: Sequence[Source], size: int, seed: int) -> "MixedSamples":
        """Samples of a mixture, by index.

        Args:
            sources: among those that were opened.
            size: side of the pictures in pixels.
            seed: of the order and of every source's own samples.
        """
        parts: list[SampleSource] = []
        for number, source in enumerate(sources):
            own = seed + ((number + 1) << 64)  # two sources of one pack show different scenes
            parts.append(self._told(source, self._plain(source, size, own), own))
        return MixedSamples(Draw(sources, seed), parts)

    def _plain(self, source: Source, size: int, seed: int) -> SampleSource:
        """A source's samples with all that is known about them."""
        if source.kind == "composed":
            assert self.pack is not None
            spoken = source.supervision == "expressions"
            return ComposedSamples(
                self.pack,
                size=size,
                seed=seed,
                names_ratio=0.0 if spoken else 1.0,
                expression_ratio=1.0 if spoken else 0.0,
                agnostic_ratio=0.0,
                letterbox=_LETTERBOX,
                enlarge=self._enlarge,
                close=self._close,
                texture=self._texture,
            )
        if source.supervision == "expressions":
            return self._referring(source, size, seed)
        pictures = self._pictures(source)
        return AugmentedSamples(pictures, size, seed, photometric_ratio=self._photometric)

    def _pictures(self, source: Source) -> CocoSamples:
        assert source.annotations is not None
        assert source.images is not None
        return self._coco[source.annotations, source.images]

    def _referring(self, source: Source, size: int, seed: int) -> ReferringSamples:
        pictures = self._pictures(source)
        file = source.expressions or default_expressions_path(pictures.coco.path)
        return ReferringSamples(pictures, read_expressions(file, pictures.coco), file, size, seed)

    def _told(self, source: Source, samples: SampleSource, seed: int) -> "ToldSamples":
        own = self._names(source)
        covered = set(self.vocabulary.names) <= set(own)
        return ToldSamples(
            samples,
            source,
            names=own,
            searched=None if covered else frozenset(own),
            every_object=covered or source.kind == "composed" or source.supervision == "agnostic",
            seed=seed,
        )

    def _names(self, source: Source) -> tuple[str, ...]:
        """The names that a source's annotators knew."""
        return self._base() if source.kind == "composed" else self._pictures(source).names

    def _base(self) -> tuple[str, ...]:
        if self.pack is None:
            return ()
        sides = zip(self.pack.names, self.pack.name_split, strict=True)
        return tuple(name for name, side in sides if side == "base")

    def _make_vocabulary(self, spoken: bool, subwords: bool, reworded: bool) -> Vocabulary:
        """The base names of the pack, then the other names of the COCO files in order."""
        base = self._base()
        named = {name for samples in self._coco.values() for name in samples.names}
        more = sorted(named - set(base))
        parts = []
        if self.pack is not None:
            vectors = torch.from_numpy(np.asarray(self.pack.name_embeddings, dtype=np.float32))
            rows = [row for row, side in enumerate(self.pack.name_split) if side == "base"]
            parts.append(vectors[rows])
        if more:
            parts.append(default_encoder().pooled(more).float())
        # Names come again and are cached; expressions of composed scenes never do.
        encoder = MiniLMEncoder() if spoken or reworded else None
        cached = default_encoder() if subwords else None
        names = [*base, *more]
        other = None if encoder is None or not reworded else Wordings.of(names, encoder)
        return Vocabulary(names, torch.cat(parts), encoder, cached, other)


class MixedSamples:
    """Samples of several sources by one index.

    Args:
        draw: which source an index belongs to.
        parts: the sources' samples.
    """

    def __init__(self, draw: Draw, parts: Sequence[SampleSource]) -> None:
        """See the class."""
        self.draw, self.parts = draw, list(parts)

    def __getitem__(self, index: int) -> Sample:
        """Sample of an index >= 0."""
        source, own = self.draw.at(index)
        return self.parts[source][own]


class ToldSamples:
    """A source's samples less what its supervision leaves out.

    Args:
        samples: with all that is known.
        source: what is told of it.
        names: the names that its annotators knew.
        searched: see :class:`~mobius_seg.data.sample.Sample`.
        every_object: see :class:`~mobius_seg.data.sample.Sample`.
        seed: of the names stated to be absent.
    """

    def __init__(
        self,
        samples: SampleSource,
        source: Source,
        *,
        names: Sequence[str],
        searched: frozenset[str] | None,
        every_object: bool,
        seed: int,
    ) -> None:
        """See the class."""
        self.samples, self.source, self.seed = samples, source, seed
        self._names, self._searched, self._every_object = names, searched, every_object

    def __getitem__(self, index: int) -> Sample:
        """Sample of an index >= 0."""
        sample = replace(
            self.samples[index], searched=self._searched, every_object=self._every_object
        )
        if self.source.names == "exhaustive":
            sample = replace(sample, exhaustive=True, absent=())
        elif self.source.names == "federated" and sample.exhaustive:
            sample = replace(sample, exhaustive=False, absent=self._absent(sample, index))
        if self.source.supervision == "boxes":
            return replace(sample, masks=None)
        if self.source.supervision == "agnostic":
            return replace(sample, names=None, absent=())
        return sample

    def _absent(self, sample: Sample, index: int) -> tuple[str, ...]:
        """A few names that an exhaustively annotated picture is known not to have."""
        rng = np.random.default_rng((self.seed, _ABSENT_STREAM, index))
        there = set(sample.names or ())
        others = [name for name in self._names if name not in there]
        chosen = rng.permutation(len(others))[:_ABSENT]
        return tuple(others[int(row)] for row in chosen)
