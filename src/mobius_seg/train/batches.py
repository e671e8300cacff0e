"""Batches by step number: step i is the same batch in every run with the same seed."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from mobius_seg.config import ModelConfig
from mobius_seg.data.coco_file import CocoData, read_coco
from mobius_seg.data.pack import Pack
from mobius_seg.data.sample import Batch, SampleSource, Vocabulary, collate
from mobius_seg.data.wordings import Wordings
from mobius_seg.errors import InputError
from mobius_seg.text import MiniLMEncoder, default_encoder
from mobius_seg.train.settings import TrainConfig
from mobius_seg.train.sources import Sources

_COLLATE_STREAM = 7
_PLAN_STREAM = 11


class StepBatches(Dataset[Batch]):
    """The batch of every step, made from (seed, step) alone.

    Args:
        config: the run.
        rank: number of this process.
        world: number of processes; each makes its own part of the batch.

    Raises:
        InputError: the batch cannot be shared evenly, or the data cannot be read.
    """

    def __init__(self, config: TrainConfig, rank: int = 0, world: int = 1) -> None:
        """See the class."""
        self.config, self.rank, self.world = config, rank, world
        if config.batch_size % world:
            raise InputError(
                f"TrainConfig.batch_size is {config.batch_size}; allowed: multiples of {world},"
                " the number of processes"
            )
        self.local = config.batch_size // world
        self._subwords = config.model().fuse_subwords
        if self._subwords and config.wording_ratio:
            raise InputError(
                f"TrainConfig.wording_ratio is {config.wording_ratio!r}; allowed with"
                f" {config.preset}, which reads the sub-words of names: 0"
            )
        self._samples: dict[tuple[int, int], SampleSource] = {}
        self._pack: Pack | None = None
        self._mixed: Sources | None = None
        if mixed := [s for stage in range(config.stages) for s in config.sources_at(stage)]:
            self._mixed = Sources(
                mixed,
                config.pack,
                self._subwords,
                enlarge=config.enlarge_ratio,
                close=config.close_ratio,
                texture=config.texture_ratio,
                wording=config.wording_ratio,
                photometric=config.photometric_ratio,
            )
            self._pack = self._mixed.pack
            self.vocabulary = self._mixed.vocabulary
            return
        if config.annotations is None:
            self._pack = Pack.open(config.pack)
        self.vocabulary = self._make_vocabulary()

    def __len__(self) -> int:
        """Nominal; steps are drawn by number."""
        return self.config.steps or 2**31

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step: uint8 images, prompt and targets."""
        key = (self.config.stage_at(step), self.config.size_at(step))
        if key not in self._samples:
            self._samples[key] = self._source(*key)
        first = (step * self.world + self.rank) * self.local
        samples = [self._samples[key][first + i] for i in range(self.local)]
        rng = np.random.default_rng((self.config.seed, _COLLATE_STREAM, step, self.rank))
        subwords = self._subwords
        return collate(
            samples,
            self.vocabulary,
            rng,
            self.config.negatives,
            subwords,
            self.config.wording_ratio,
        )

    @property
    def sources(self) -> list[dict[str, object]]:
        """Package, version, licence and digest of everything the pictures are made of.

        Those of the pack, then those that COCO files list and it does not.
        """
        listed = [dict(source) for source in self._pack.meta.sources] if self._pack else []
        seen = {(source.get("package"), source.get("sha256")) for source in listed}
        for file in self._files():
            for source in file.sources:
                key = (source.get("package"), source.get("sha256"))
                if key not in seen:
                    listed.append(dict(source))
                    seen.add(key)
        return listed

    @property
    def annotations(self) -> list[dict[str, object]]:
        """Name, split, SHA-256 and number of pictures of every COCO file."""
        return [{**file.provenance(), "pictures": len(file.images)} for file in self._files()]

    def _files(self) -> list[CocoData]:
        if self._mixed is not None:
            return self._mixed.files
        if self.config.annotations is None:
            return []
        return [read_coco(self.config.annotations)]

    def _source(self, stage: int, size: int) -> SampleSource:
        config = self.config
        if self._mixed is not None:
            seed = config.seed + (stage << 96)  # beyond the sources' own seeds
            return self._mixed.samples(config.sources_at(stage), size, seed)
        if self._pack is None:
            from mobius_seg.data.coco import CocoSamples
            from mobius_seg.data.transforms import AugmentedSamples

            assert config.annotations is not None
            assert config.images is not None
            samples = CocoSamples(config.annotations, config.images)
            ratios = (config.agnostic_ratio, config.photometric_ratio)
            return AugmentedSamples(samples, size, config.seed, *ratios)
        from mobius_seg.data.dataset import ComposedSamples

        return ComposedSamples(
            self._pack,
            split="train",
            size=size,
            seed=config.seed,
            names_ratio=1 - config.expression_ratio - config.agnostic_ratio,
            expression_ratio=config.expression_ratio,
            agnostic_ratio=config.agnostic_ratio,
            letterbox=0.1,
            enlarge=config.enlarge_ratio,
            close=config.close_ratio,
            texture=config.texture_ratio,
        )

    def _make_vocabulary(self) -> Vocabulary:
        # Names come again and are cached; expressions of composed scenes never do.
        names_encoder = default_encoder() if self._subwords else None
        if self._pack is None:
            from mobius_seg.data.coco import read_coco

            assert self.config.annotations is not None
            names = sorted(set(read_coco(self.config.annotations).names))
            return Vocabulary(names, default_encoder().pooled(names), None, names_encoder)
        base = [i for i, side in enumerate(self._pack.name_split) if side == "base"]
        vectors = torch.from_numpy(np.asarray(self._pack.name_embeddings, dtype=np.float32))
        names = [self._pack.names[i] for i in base]
        spoken, reworded = self.config.expression_ratio > 0, self.config.wording_ratio > 0
        encoder = MiniLMEncoder() if spoken or reworded else None
        other = None
        if encoder is not None and reworded:
            other = Wordings.of(names, encoder)
        return Vocabulary(names, vectors[base], encoder, names_encoder, other)


class Steps(Sampler[int]):
    """Step numbers from the next one on.

    Args:
        start: the next step.
        end: the step at which the run is over.
    """

    def __init__(self, start: int, end: int) -> None:
        """See the class."""
        self.start, self.end = start, end

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.end))

    def __len__(self) -> int:
        return self.end - self.start


def step_plan(
    config: TrainConfig, model: ModelConfig, step: int, targets: int
) -> tuple[Sequence[int] | None, int]:
    """Queries kept for each layer, and layers run, of a step.

    Some steps run a random prefix of the layers, some drop queries between layers, so that every
    prefix and every keep ratio is a model that was trained (the same on all processes).

    Args:
        config: how often.
        model: queries and layers of the full model.
        step: number of the step.
        targets: most targets in an image; at least twice as many queries stay.

    Returns:
        ``keep`` and ``layers`` of the network's forward.
    """
    rng = np.random.default_rng((config.seed, _PLAN_STREAM, step))
    layers = model.decoder_layers
    if rng.random() < config.prefix_ratio:
        layers = int(rng.integers(1, layers + 1))
    if rng.random() >= config.drop_ratio:
        return None, layers
    least = min(max(2 * targets, 8), model.queries)
    keep, count = [], float(rng.uniform(model.queries / 3, model.queries))
    for _ in range(layers):
        keep.append(max(least, round(count)))
        count *= rng.uniform(0.4, 1.0)
    return keep, layers
