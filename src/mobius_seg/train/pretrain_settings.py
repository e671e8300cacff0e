"""What a pretraining of a backbone is, as data."""

from dataclasses import dataclass
from pathlib import Path

from mobius_seg.errors import InputError
from mobius_seg.json_values import is_number
from mobius_seg.option_kinds import MAX_THREADS
from mobius_seg.train.settings import (
    LARGEST_BATCH,
    Precision,
    check_positive,
    check_precision,
)

MINUTES = 60.0


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining of a backbone.

    Attributes:
        preset: model whose backbone and name map are trained.
        out: folder for ``backbone.safetensors`` and ``pretraining.json``.
        pack: file of ``mobius-seg assets pack``.
        weights: trained model whose backbone and name map go on learning, crowded pictures from the
            start; the whole model is written to ``out / "model"`` then, for ``mobius-seg train
            --weights``.
        teacher: trained model whose answers under the same masks are learnt too (distillation,
            Hinton et al. 2015).
        teacher_share: part of the loss among names that these make up, above 0 up to 1; with a
            teacher alone.
        minutes: wall-clock minutes; None takes :data:`MINUTES` where no ``steps`` are given.
        steps: steps in all; the same result on every machine that has the same precision.
        size: side of the pictures of the last stage in pixels.
        batch_size: pictures a step of the last stage; smaller pictures come in larger batches.
        lr: peak learning rate of the backbone; the name map has three times that.
        pretrained: start from ImageNet weights where there are any.
        freeze_stride: the backbone is frozen up to the map of this stride (0 = nothing).
        threads: CPU threads of torch; 0 leaves torch's choice.
        precision: ``auto`` takes bf16 where the device computes it natively.
        seed: of everything random.
        resume: go on from the last checkpoint in ``out``; with the same configuration (given
            ``steps``) the result is that of a run never stopped.
        checkpoint_minutes: minutes between checkpoints.
    """

    preset: str
    out: Path
    pack: Path = Path("assets/pack.safetensors")
    weights: Path | None = None
    teacher: Path | None = None
    teacher_share: float | None = None
    minutes: float | None = None
    steps: int | None = None
    size: int = 192
    batch_size: int = 16
    lr: float = 6e-4
    pretrained: bool = True
    freeze_stride: int = 8
    threads: int = 0
    precision: Precision = "auto"
    seed: int = 0
    resume: bool = False
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        """Reject what cannot be trained.

        Raises:
            InputError: names the field, the value and what is allowed.
        """
        check_positive(self, ("minutes", "steps", "batch_size", "lr", "checkpoint_minutes"))
        if self.minutes is not None and self.steps is not None:
            raise InputError("give either steps or minutes (--steps N or --minutes M)")
        if self.batch_size > LARGEST_BATCH:
            raise InputError(
                f"PretrainConfig.batch_size is {self.batch_size!r:.40}; allowed: up to"
                f" {LARGEST_BATCH}"
            )
        check_precision(self)
        share = self.teacher_share
        if share is not None and not (is_number(share) and 0 < share <= 1):
            raise InputError(
                f"PretrainConfig.teacher_share is {share!r:.60}; allowed: above 0 up to 1"
            )
        if share is not None and self.teacher is None:
            raise InputError("PretrainConfig.teacher_share is given without a teacher (--teacher)")
        if self.weights is not None and not self.pretrained:
            raise InputError("PretrainConfig.pretrained is False; allowed with weights: True")
        if self.size < 32 or self.size % 32 or self.size > 512:
            raise InputError(
                f"PretrainConfig.size is {self.size}; allowed: multiples of 32 up to 512"
            )
        if not 0 <= self.seed < 2**63 or not 0 <= self.threads <= MAX_THREADS:
            raise InputError(f"PretrainConfig: seed and threads (at most {MAX_THREADS}) start at 0")
