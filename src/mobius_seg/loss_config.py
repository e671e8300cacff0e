"""Weights and switches of the losses, as data."""

from dataclasses import dataclass, field

from mobius_seg.calibration import (
    CALIBRATION_TARGETS,
    CLASS_LOSSES,
    CalibrationTarget,
    ClassLoss,
)
from mobius_seg.errors import InputError
from mobius_seg.points import PointConfig


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
        class_loss: form of the class loss.
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
    class_loss: ClassLoss = "mal"
    gamma: float = 1.5
    synonyms: bool = True
    calibration_target: CalibrationTarget = "own"
    uncertainty: float = 1.0
    region_weighting: bool = False
    points: PointConfig = field(default_factory=PointConfig)

    def __post_init__(self) -> None:
        """Reject an unknown form of the class loss or of its target.

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
