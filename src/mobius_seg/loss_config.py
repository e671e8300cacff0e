"""Weights and switches of the losses, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from mobius_seg.errors import InputError
from mobius_seg.json_values import is_number

ClassLoss = Literal["mal", "varifocal", "focal"]
CLASS_LOSSES: tuple[str, ...] = get_args(ClassLoss)
CalibrationTarget = Literal["own", "final"]
CALIBRATION_TARGETS: tuple[str, ...] = get_args(CalibrationTarget)

# Lowest and highest value of each number.
_POINT_RANGES = {
    "count": (1, 100_000),
    "oversample": (1, 100),
    "importance": (0, 1),
    "in_box": (0, 100_000),
    "match_uniform": (1, 100_000),
    "match_per_target": (0, 100_000),
}
_LOSS_RANGES = {
    **dict.fromkeys(("classification", "mask", "dice", "box", "giou", "contrast"), (0, 10_000)),
    **dict.fromkeys(("regions", "pull", "dense", "uncertainty"), (0, 10_000)),
    "dense_tokens": (1, 1000),
    "gamma": (0, 100),
}


@dataclass(frozen=True, kw_only=True)
class PointConfig:
    """Numbers of points.

    Attributes:
        count: points per mask outside the box share.
        oversample: candidates per kept uncertain point (Mask2Former: 3).
        importance: share of ``count`` drawn where the mask is uncertain (Mask2Former: 0.75).
        in_box: further points drawn uniformly in the enlarged target box, so that an object of a
            dozen pixels is compared at more than three points; 0 gives Mask2Former's sampling.
        match_uniform: points per image in the matching costs.
        match_per_target: further matching points in each target's box.
    """

    count: int = 256
    oversample: float = 3.0
    importance: float = 0.75
    in_box: int = 256
    match_uniform: int = 256
    match_per_target: int = 24

    def __post_init__(self) -> None:
        """Reject numbers that no points can be drawn with.

        Raises:
            InputError: names the field, the value and what is allowed.
        """
        _check_ranges(self, _POINT_RANGES)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and switches of the criterion.

    Attributes:
        classification: weight of the class loss (the same in matching), and so on for the others.
        mask: weight of the mask cross-entropy.
        dice: weight of the dice loss.
        box: weight of the L1 box loss.
        giou: weight of the GIoU loss.
        contrast: weight of the names' competition (``calibration.name_contrast``).
        regions: weight of the region loss (``regions.region_loss``); 0 leaves it out.
        pull: weight, within the region loss, of the distance to the true name's text vector.
        dense: weight of the auxiliary dense loss; 0 leaves it out.
        dense_tokens: best tokens per object in the dense loss.
        class_loss: form of the class loss. After score maps were fitted, ``varifocal`` erred least
            of the three (docs/claims.md); without maps, ``mal`` does.
        gamma: power of the quality target and of the negatives' weight (MAL, 1.5).
        synonyms: push names that mean the same less (``calibration.synonym_weight``).
        calibration_target: quality that a stage's confidence learns: its ``own``, or that which
            the same query has at the last stage that ran (``final_targets.final_answers``).
        uncertainty: weight of the loss of the uncertainty head, where the model has one.
        region_weighting: draw fewer uncertain mask points for queries that language does not
            support, and weigh them less (``mask_losses.mask_terms``).
        points: where masks are compared.
    """

    classification: float = 4.0
    mask: float = 5.0
    dice: float = 5.0
    box: float = 5.0
    giou: float = 2.0
    contrast: float = 3.0
    regions: float = 3.0
    pull: float = 10.0
    dense: float = 1.0
    dense_tokens: int = 6
    class_loss: ClassLoss = "varifocal"
    gamma: float = 1.5
    synonyms: bool = True
    calibration_target: CalibrationTarget = "own"
    uncertainty: float = 1.0
    region_weighting: bool = False
    points: PointConfig = field(default_factory=PointConfig)

    def __post_init__(self) -> None:
        """Reject weights out of range, and unknown forms of the class loss or of its target.

        Raises:
            InputError: names the field, the value and what is allowed.
        """
        for name, allowed in (
            ("class_loss", CLASS_LOSSES),
            ("calibration_target", CALIBRATION_TARGETS),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"LossConfig.{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}"
                )
        _check_ranges(self, _LOSS_RANGES)


def _check_ranges(config: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Numbers in their ranges, or an InputError that names the first that is not."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not (is_number(value) and low <= value <= high):
            raise InputError(
                f"{type(config).__name__}.{name} is {value!r:.60}; allowed: {low:g} to {high:g}"
            )


FIRST_LOSS = LossConfig(class_loss="mal", synonyms=True)
"""What was the default until score maps decided: of runs that say nothing about their loss, and of
the released weights."""
