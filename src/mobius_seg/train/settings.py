"""What a training run is, as data."""

import bisect
import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from mobius_seg.checkpoint import find_folder, read_config
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.json_values import is_number
from mobius_seg.loss_config import LossConfig
from mobius_seg.presets import get_preset
from mobius_seg.train.mixture import Source, check_ratios
from mobius_seg.train.recipe import LARGEST, Recipe
from mobius_seg.train.switches import override
from mobius_seg.train.validation_settings import Validation

_ABOVE_ZERO = (
    "steps",
    "minutes",
    "batch_size",
    "lr",
    "backbone_lr",
    "clip",
    "log_steps",
    "checkpoint_minutes",
)
_FROM_ZERO = (
    "workers",
    "threads",
    "warmup",
    "weight_decay",
    "snapshot_minutes",
    "snapshot_steps",
    "seed",
)

_WHOLE = (
    "steps",
    "batch_size",
    "log_steps",
    "workers",
    "threads",
    "warmup",
    "snapshot_steps",
    "seed",
    "freeze_stride",
)
COMPOSED_RATIOS = ("enlarge_ratio", "close_ratio", "texture_ratio", "wording_ratio")
"""Shares that only runs on composed scenes have."""
_MOST_NEGATIVES = 10**6
LARGEST_BATCH = 65_536

BACKBONE_FILE = "backbone.safetensors"  # what ``mobius-seg pretrain`` leaves in its folder
PRETRAINING_FILE = "pretraining.json"  # and what stands beside it

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        preset: name of the model to train.
        out: folder of the run.
        pack: file of ``mobius-seg assets pack``; scenes are composed from it on the fly.
        annotations: COCO file to train on instead of composed scenes.
        images: folder of that file's pictures.
        weights: model folder to start from instead of ImageNet weights.
        backbone: folder of ``mobius-seg pretrain`` to start the backbone from.
        pretrained: start the backbone from ImageNet weights where there are any.
        steps: steps to train; None where ``minutes`` is given.
        minutes: wall-clock minutes to train; None where ``steps`` is given.
        resume: go on from the last checkpoint in ``out``.
        batch_size: images a step (over all processes).
        sizes: (fraction of the steps, side in pixels) pairs in rising order, the first at 0. More
            than one needs ``steps``.
        lr: peak learning rate (AdamW).
        backbone_lr: peak learning rate of the backbone.
        weight_decay: of matrices and kernels; biases, norms, scales and gates have none.
        clip: maximum gradient norm.
        warmup: steps of linear warm-up.
        flat: share of the run at the peak rate before the cosine sets in.
        ema: decay of the averaged weights, which are the ones shipped.
        freeze_stride: the backbone is frozen up to the map of this stride (0 = nothing), unless it
            was drawn at random.
        freeze_norm: keep the backbone's batch norms in eval mode, with the same exception.
        negatives: smallest and largest number of sampled negative names.
        expression_ratio: share of images asked with a referring expression.
        agnostic_ratio: share of images asked without names.
        enlarge_ratio: share of composed scenes that are made smaller and enlarged, as small
            pictures are at inference.
        close_ratio: share of composed scenes that are close-ups, as many photographs are.
        texture_ratio: share of their objects that get the relief of a photograph or a texture.
        wording_ratio: share of composed names asked in other words (synonyms, plurals, articles),
            and of composed scenes asked for kinds of things ("animal").
        photometric_ratio: share of the pictures of COCO files that are changed in light, sharpness
            or noise, or stored as JPEG once more, as every composed scene may be.
        prefix_ratio: share of steps that run a random prefix of the decoder's layers.
        drop_ratio: share of steps that run with fewer queries, dropped between layers.
        workers: loader processes; 0 composes in the training process.
        threads: CPU threads of torch; 0 leaves torch's choice.
        precision: ``auto`` takes bf16 where the device computes it natively.
        compile: compile the network's backbone with ``torch.compile``.
        seed: of everything random.
        checkpoint_minutes: minutes between checkpoints.
        snapshot_minutes: minutes between kept copies of the averaged weights; 0 keeps none.
        snapshot_steps: steps between such copies, whatever the clock says; 0 keeps none.
        log_steps: steps between log lines.
        loss: weights and switches of the losses.
        overrides: fields of the model that differ from the preset (or from ``weights``), by name.
        mixture: sources of the samples, in place of ``annotations`` and of the two ratios
            of composed scenes.
        recipe: stages of the run, for comparison; None = one stage.
        validation: pictures that the run is judged on, for its best weights; None = it is not.
    """

    preset: str
    out: Path
    pack: Path = Path("assets/pack.safetensors")
    annotations: Path | None = None
    images: Path | None = None
    weights: Path | None = None
    backbone: Path | None = None
    pretrained: bool = True
    steps: int | None = None
    minutes: float | None = None
    resume: bool = False
    batch_size: int = 16
    sizes: tuple[tuple[float, int], ...] = ((0.0, 256),)
    lr: float = 6e-4
    backbone_lr: float = 1.5e-4
    weight_decay: float = 0.02
    clip: float = 1.0
    warmup: int = 150
    flat: float = 0.4
    ema: float = 0.999
    freeze_stride: int = 8
    freeze_norm: bool = True
    negatives: tuple[int, int] = (20, 200)
    expression_ratio: float = 0.15
    agnostic_ratio: float = 0.15
    enlarge_ratio: float = 0.0
    close_ratio: float = 0.0
    texture_ratio: float = 0.0
    wording_ratio: float = 0.0
    photometric_ratio: float = 0.0
    prefix_ratio: float = 0.2
    drop_ratio: float = 0.4
    workers: int = 1
    threads: int = 0
    precision: Precision = "auto"
    compile: bool = False
    seed: int = 0
    checkpoint_minutes: float = 5.0
    snapshot_minutes: float = 15.0
    snapshot_steps: int = 0
    log_steps: int = 20
    loss: LossConfig = field(default_factory=LossConfig)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    mixture: tuple[Source, ...] = ()
    recipe: Recipe | None = None
    validation: Validation | None = None

    def __post_init__(self) -> None:
        """Reject what cannot be trained.

        Raises:
            InputError: names the field, the value and what is allowed.
        """
        if (self.steps is None) == (self.minutes is None):
            raise InputError("give either steps or minutes (--steps N or --minutes M)")
        if (self.annotations is None) != (self.images is None):
            raise InputError("annotations and images go together (--annotations FILE --images DIR)")
        for name in COMPOSED_RATIOS:
            if self.annotations is not None and getattr(self, name):
                raise InputError(
                    f"TrainConfig.{name} is {getattr(self, name)!r}; allowed with annotations: 0,"
                    " it belongs to composed scenes"
                )
        self._check_numbers()
        ratios = ("expression_ratio", "agnostic_ratio", *COMPOSED_RATIOS, "photometric_ratio")
        for name in (*ratios, "prefix_ratio", "drop_ratio", "flat", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"TrainConfig.{name} is {getattr(self, name)!r}; allowed: 0 to 1")
        if self.backbone is not None and self.weights is not None:
            raise InputError("give either --weights (a whole model) or --backbone, not both")
        if self.expression_ratio + self.agnostic_ratio > 1:
            raise InputError("expression_ratio + agnostic_ratio is above 1")
        check_precision(self)
        self._check_sizes()
        if self.overrides and self.weights is None:
            override(get_preset(self.preset), self.overrides)
        self._check_mixture()
        self._check_photometric()
        self._check_recipe()

    def _check_numbers(self) -> None:
        """Finite numbers in their ranges."""
        check_positive(self, _ABOVE_ZERO)
        for name in _FROM_ZERO:
            value = getattr(self, name)
            if not (is_number(value) and value >= 0):
                raise InputError(f"TrainConfig.{name} is {value!r:.60}; allowed: finite, 0 or more")
        for name in _WHOLE:
            value = getattr(self, name)
            if value is not None and not isinstance(value, int):
                raise InputError(f"TrainConfig.{name} is {value!r:.60}; allowed: whole numbers")
        for name, limit in (
            *(("threads", 1024), ("workers", 1024), ("seed", 2**63 - 1)),
            ("batch_size", LARGEST_BATCH),
        ):
            if getattr(self, name) > limit:
                raise InputError(
                    f"TrainConfig.{name} is {getattr(self, name)!r:.40}; allowed: up to {limit}"
                )
        counts = [count for count in self.negatives if isinstance(count, int)]
        if len(counts) != 2 or not 0 <= counts[0] <= counts[1] <= _MOST_NEGATIVES:
            raise InputError(
                f"TrainConfig.negatives is {self.negatives!r:.60}; allowed: two rising counts from"
                f" 0 to {_MOST_NEGATIVES}"
            )
        if self.ema == 1:
            raise InputError("TrainConfig.ema is 1, an average that never moves; allowed: below 1")

    def _check_sizes(self) -> None:
        """Sizes are multiples of 32 that set in at rising fractions of the steps."""
        starts = [start for start, _ in self.sizes]
        rising = all(before < after for before, after in itertools.pairwise([*starts, 1]))
        if not starts or starts[0] != 0 or not rising:
            raise InputError(
                f"TrainConfig.sizes is {self.sizes!r:.80}; allowed: rising fractions, the first 0"
            )
        for _, size in self.sizes:
            if not 32 <= size <= LARGEST or size % 32:
                raise InputError(
                    f"TrainConfig.sizes has side {size!r:.40}; allowed: multiples of 32 up to"
                    f" {LARGEST}"
                )
        if len(self.sizes) > 1 and self.steps is None:
            raise InputError("a schedule of sizes needs steps (--steps N), not minutes")

    def _check_photometric(self) -> None:
        """There are pictures that it changes."""
        sources = [*self.mixture, *(s for i in range(self.stages) for s in self.sources_at(i))]
        files = self.annotations is not None or any(source.kind == "coco" for source in sources)
        if self.photometric_ratio and not files:
            raise InputError(
                f"TrainConfig.photometric_ratio is {self.photometric_ratio!r}; allowed without a"
                " COCO file: 0, composed scenes have such changes already"
            )

    def _check_mixture(self) -> None:
        """A mixture says all about the data; nothing beside it is left unread."""
        staged = self.recipe is not None and any(stage.sources for stage in self.recipe.stages)
        if not self.mixture and not staged:
            return
        check_ratios(self.mixture or ())
        if self.annotations is not None:
            raise InputError("give either annotations or a mixture of sources, not both")
        for name in ("expression_ratio", "agnostic_ratio"):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise InputError(
                    f"TrainConfig.{name} is {getattr(self, name)!r}; allowed with a mixture:"
                    " nothing, its sources have ratios of their own"
                )
        sources = [*self.mixture, *(s for i in range(self.stages) for s in self.sources_at(i))]
        for name in COMPOSED_RATIOS:
            if getattr(self, name) and all(source.kind != "composed" for source in sources):
                raise InputError(
                    f"TrainConfig.{name} is {getattr(self, name)!r}; allowed with a mixture"
                    " without composed scenes: 0"
                )

    def _check_recipe(self) -> None:
        """Stages have steps, sizes and data."""
        if self.recipe is None:
            return
        if self.steps is None:
            raise InputError("a recipe of stages needs steps (--steps N), not minutes")
        self.recipe.starts(self.steps)
        stages = self.recipe.stages
        if any(stage.size is not None for stage in stages) and len(self.sizes) > 1:
            raise InputError("give either a schedule of sizes or stages with sizes, not both")
        if self.mixture and all(stage.sources for stage in stages):
            raise InputError(
                "every stage of the recipe has sources; allowed beside them: no mixture, which none"
                " would read"
            )
        if (
            any(s.sources for s in stages)
            and not self.mixture
            and not all(s.sources for s in stages)
        ):
            raise InputError(
                "some stages of the recipe have sources and some have none; allowed: all, none, or"
                " a mixture for those without"
            )

    def stage_at(self, step: int) -> int:
        """Number of a step's stage, from 0; always 0 without a recipe."""
        if self.recipe is None or self.steps is None:
            return 0
        starts = self.recipe.starts(self.steps)
        return min(bisect.bisect_right(starts, step), len(self.recipe.stages)) - 1

    @property
    def stages(self) -> int:
        """Number of stages."""
        return 1 if self.recipe is None else len(self.recipe.stages)

    def sources_at(self, stage: int) -> tuple[Source, ...]:
        """Sources of a stage; none where the run's data is no mixture."""
        own = self.recipe.stages[stage].sources if self.recipe is not None else ()
        return own or self.mixture

    def model(self) -> ModelConfig:
        """The model that is trained: the preset, or that of ``weights``, with the overrides.

        What is trained last is what ``predict`` resizes to unless told otherwise.

        Raises:
            InputError: there is no such preset, or the weights belong to another one.
        """
        base = get_preset(self.preset)
        if self.weights is not None:
            base = read_config(find_folder(self.weights))
            if base.name != self.preset:
                raise InputError(f"{self.weights}: holds {base.name}, not {self.preset}")
        size = self.sizes[-1][1]
        if self.recipe is not None and self.recipe.stages[-1].size is not None:
            size = self.recipe.stages[-1].size
        return dataclasses.replace(override(base, self.overrides), input_size=size)

    def size_at(self, step: int) -> int:
        """Side of the images of a step in pixels."""
        if self.recipe is not None:
            size = self.recipe.stages[self.stage_at(step)].size
            if size is not None:
                return size
        fraction = 0.0 if self.steps is None else step / self.steps
        return [size for start, size in self.sizes if start <= fraction][-1]

    def to_json(self) -> str:
        """The run's configuration as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2, default=str) + "\n"


def check_positive(config: object, fields: Sequence[str]) -> None:
    """Numbers that must be finite and above 0 where they are given.

    Raises:
        InputError: names the field, the value and what is allowed.
    """
    for name in fields:
        value = getattr(config, name)
        if value is not None and not (is_number(value) and value > 0):
            raise InputError(
                f"{type(config).__name__}.{name} is {value!r:.60}; allowed: finite, above 0"
            )


def check_precision(config: Any) -> None:
    """A precision that there is.

    Args:
        config: with a field ``precision``.

    Raises:
        InputError: names the value and what is allowed.
    """
    if config.precision not in get_args(Precision):
        raise InputError(
            f"{type(config).__name__}.precision is {config.precision!r:.60}; allowed:"
            f" {', '.join(get_args(Precision))}"
        )


def parse_sizes(text: str) -> tuple[tuple[float, int], ...]:
    """Read ``256`` or ``160@0,192@0.4,256@0.75``.

    Raises:
        InputError: the text has another form.
    """
    try:
        if "@" not in text:
            return ((0.0, int(text)),)
        pairs = [part.split("@") for part in text.split(",")]
        return tuple((float(start), int(size)) for size, start in pairs)
    except ValueError:
        raise InputError(
            f"--size is {text!r:.60}; allowed: a side such as 256, or 160@0,192@0.4,256@0.75"
        ) from None
