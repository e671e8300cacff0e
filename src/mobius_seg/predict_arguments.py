"""The numbers and the device that prediction takes, checked."""

import numpy as np
import torch

from mobius_seg.errors import InputError

SIZE_LIMITS = (32, 8192)


def check_arguments(
    size: object,
    threshold: object,
    max_instances: object,
    batch: object,
    calibrated: object = True,
    names_per_instance: object = 1,
    nms_iou: object = None,
) -> None:
    """Check the numbers that ``predict`` takes.

    Raises:
        InputError: names the number and what is allowed.
    """
    low, high = SIZE_LIMITS
    if not _is_whole(size) or not low <= size <= high:  # type: ignore[operator]
        raise InputError(f"size is {size!r}; allowed: whole numbers from {low} to {high}")
    if not isinstance(calibrated, bool):
        raise InputError(f"calibrated is {calibrated!r}; allowed: True or False")
    for field, value in (("threshold", threshold), ("nms_iou", nms_iou)):
        if value is None and field == "nms_iou":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise InputError(f"{field} is {value!r}; allowed: 0 to 1")
        if not 0.0 <= float(value) <= 1.0:
            raise InputError(f"{field} is {value!r}; allowed: 0 to 1")
    counts = {
        "max_instances": max_instances,
        "batch_size": batch,
        "names_per_instance": names_per_instance,
    }
    for field, value in counts.items():
        if not _is_whole(value) or value < 1:  # type: ignore[operator]
            raise InputError(f"{field} is {value!r}; allowed: whole numbers from 1")


def _is_whole(value: object) -> bool:
    """A whole number, which True is not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device to run on.

    Raises:
        InputError: it does not exist here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
        if chosen.type == "meta":
            raise RuntimeError("it computes nothing")
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        reason = str(error).split("\n")[0].split(". ")[0][:200]
        raise InputError(f"device {str(device)!r} cannot be used: {reason}") from None
    return chosen
