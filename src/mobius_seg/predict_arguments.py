"""The numbers and the device that prediction takes, checked."""

import numpy as np
import torch

from mobius_seg.errors import InputError

SIZE_LIMITS = (32, 8192)
_MOST = 2**63 - 1  # what a tensor's row can be numbered by


def check_size(size: object) -> None:
    """Check the longest side of the input.

    Raises:
        InputError: it is no side in pixels that a network takes.
    """
    low, high = SIZE_LIMITS
    if not _is_whole(size) or not low <= size <= high:  # type: ignore[operator]
        raise InputError(f"size is {size!r:.40}; allowed: whole numbers from {low} to {high}")


def check_extent(size: int | None, limit: int | None) -> None:
    """Reject an input size or a number of pictures that nothing can be run with; None = default.

    Raises:
        InputError: names the argument, its value and what is allowed.
    """
    check_limit(limit)
    if size is not None:
        check_size(size)


def check_limit(limit: object) -> None:
    """Check how many pictures of a data set are used.

    Raises:
        InputError: it is neither a whole number from 1 nor None, for all of them.
    """
    if limit is not None and (not _is_whole(limit) or limit < 1):  # type: ignore[operator]
        raise InputError(f"limit is {limit!r:.40}; allowed: a whole number of at least 1")


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
    check_size(size)
    if not isinstance(calibrated, bool):
        raise InputError(f"calibrated is {calibrated!r}; allowed: True or False")
    for field, value in (("threshold", threshold), ("nms_iou", nms_iou)):
        if value is None and field == "nms_iou":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise InputError(f"{field} is {value!r}; allowed: 0 to 1")
        if not 0 <= value <= 1:
            raise InputError(f"{field} is {value!r:.40}; allowed: 0 to 1")
    counts = {
        "max_instances": max_instances,
        "batch_size": batch,
        "names_per_instance": names_per_instance,
    }
    for field, value in counts.items():
        if not _is_whole(value) or not 1 <= value <= _MOST:  # type: ignore[operator]
            raise InputError(f"{field} is {value!r:.40}; allowed: whole numbers from 1")


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
