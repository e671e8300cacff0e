"""Checks of the fields of a COCO file: each returns the value or says what is wrong with it.

The messages leave out the file and the entry, which :mod:`mobius_seg.data.coco_file` puts in front.
"""

import json
import math
from pathlib import Path
from typing import Any

from mobius_seg.data.rle import MAX_PIXELS, read_rle
from mobius_seg.errors import InputError

Segmentation = list[list[float]] | bytes | None
"""Polygons [x0, y0, x1, y1, ...], or compressed run lengths, or no mask."""

_LARGEST = 2**63 - 1


def read_json_object(path: Path, what: str) -> dict[str, Any]:
    """The JSON object that a file holds.

    Args:
        path: the file, UTF-8.
        what: what the file should be, for the message ("annotation file").

    Returns:
        The object, its values unchecked (they may hold NaN).

    Raises:
        InputError: the file is missing, cannot be read, is not JSON or not an object.
    """
    if not path.exists():
        raise InputError(f"{path}: no such {what}")
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path}: cannot read the {what}: {reason}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{path}: not JSON ({error.msg} at {where})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not JSON (not UTF-8 text)") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, deep nesting
        raise InputError(f"{path}: not JSON that can be read ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: {kind(value)}; allowed: a JSON object")
    return value


def entries(data: dict[str, Any], key: str, *, may_be_empty: bool = False) -> list[Any]:
    """The list under ``key``.

    Raises:
        InputError: it is missing, not a list, or empty where that is not allowed.
    """
    if key not in data:
        raise InputError(f"`{key}` is missing; allowed: a list of objects")
    value = data[key]
    if not isinstance(value, list):
        raise InputError(f"`{key}` is {kind(value)}; allowed: a list of objects")
    if not value and not may_be_empty:
        raise InputError(f"`{key}` is empty; allowed: at least one entry")
    return value


def entry_object(value: Any) -> dict[str, Any]:
    """The entry itself.

    Raises:
        InputError: it is not an object.
    """
    if not isinstance(value, dict):
        raise InputError(f"is {kind(value)}; allowed: an object")
    return value


def whole(entry: dict[str, Any], key: str, low: int | None = None) -> int:
    """A whole number of 64 bits, at least ``low``.

    Raises:
        InputError: it is missing, of another type (true, 1.0 and "1" included), too small or large.
    """
    value = entry.get(key)
    if type(value) is int and (-_LARGEST if low is None else low) <= value <= _LARGEST:
        return value
    allowed = "a whole number" + (" of 64 bits" if low is None else f" of at least {low}")
    raise InputError(f"`{key}` is {show(entry, key)}; allowed: {allowed}")


def known(entry: dict[str, Any], key: str, rows: dict[int, int], where: str) -> int:
    """The row of an id that must be among those of the list ``where``.

    Raises:
        InputError: it is not a whole number, or no entry of that list has it.
    """
    identity = whole(entry, key)
    if identity not in rows:
        raise InputError(f"`{key}` {identity} is unknown; allowed: an id in `{where}`")
    return rows[identity]


def text(entry: dict[str, Any], key: str) -> str:
    """A text that is not blank, without white space around it.

    Raises:
        InputError: it is missing, not a string, or blank.
    """
    value = entry.get(key)
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise InputError(f"`{key}` is {show(entry, key)}; allowed: a text that is not blank")


def area(entry: dict[str, Any]) -> float | None:
    """The ``area`` in pixels, or None where the entry has none.

    Raises:
        InputError: it is not a finite number of at least 0.
    """
    value = entry.get("area")
    if value is None:
        return None
    if _finite([value]) and value >= 0:
        return float(value)
    raise InputError(f"`area` is {show(entry, 'area')}; allowed: a finite number of at least 0")


def crowd(entry: dict[str, Any]) -> bool:
    """``iscrowd``, False where it is missing.

    Raises:
        InputError: it is not 0 or 1 (false and true are taken).
    """
    value = entry.get("iscrowd", 0)
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise InputError(f"`iscrowd` is {show(entry, 'iscrowd')}; allowed: 0 or 1")


def picture_size(entry: dict[str, Any]) -> tuple[int, int]:
    """``height`` and ``width`` of an image entry, in pixels.

    Raises:
        InputError: one is not a whole number of at least 1, or the picture is beyond what run
            lengths can hold.
    """
    height, width = whole(entry, "height", 1), whole(entry, "width", 1)
    if height * width > MAX_PIXELS:
        raise InputError(f"`height` x `width` is {height} x {width}; allowed: {MAX_PIXELS} pixels")
    return height, width


def bbox(entry: dict[str, Any], height: int, width: int) -> tuple[float, float, float, float]:
    """The box (x, y, width, height) in pixels.

    Raises:
        InputError: it is not four finite numbers, a side is negative, or it lies more than one
            picture away.
    """
    value = entry.get("bbox")
    if not isinstance(value, list) or len(value) != 4 or not _finite(value):
        raise InputError(
            f"`bbox` is {show(entry, 'bbox')}; allowed: four finite numbers [x, y, width, height]"
        )
    x, y, w, h = (float(v) for v in value)
    if w < 0 or h < 0:
        raise InputError(
            f"`bbox` is {show(entry, 'bbox')}; allowed: width and height of at least 0"
        )
    _near_picture("bbox", (x, y, x + w, y + h), height, width)
    return x, y, w, h


def segmentation(entry: dict[str, Any], height: int, width: int) -> Segmentation:
    """The mask of an annotation.

    Polygons are returned as they are, run lengths compressed and in one form. A missing, null or
    empty segmentation means that only the box is known.

    Raises:
        InputError: it is of another type, a polygon has fewer than six or an odd number of
            coordinates, one is not finite or more than one picture away, or the RLE is not one of
            a mask of this size.
    """
    value = entry.get("segmentation")
    if value is None or value == []:
        return None
    if isinstance(value, dict):
        try:
            return read_rle(value, height, width)
        except InputError as error:
            raise InputError(f"`segmentation`: {error}") from None
    if not isinstance(value, list):
        raise InputError(
            f"`segmentation` is {kind(value)}; allowed: a list of polygons, or an RLE object"
        )
    for number, polygon in enumerate(value):
        name = f"segmentation[{number}]"
        if not isinstance(polygon, list):
            raise InputError(
                f"`{name}` is {kind(polygon)}; allowed: a polygon, a list [x0, y0, x1, y1, ...]"
            )
        if len(polygon) < 6:
            raise InputError(
                f"`{name}` is a polygon of {len(polygon)} numbers; allowed: six or more"
            )
        if len(polygon) % 2:
            raise InputError(
                f"`{name}` is a polygon of {len(polygon)} numbers; allowed: an even number"
            )
        if not _finite(polygon):
            raise InputError(f"`{name}` holds what is not a finite number; allowed: finite numbers")
        _near_picture(name, polygon, height, width)
    return value


def show(entry: dict[str, Any], key: str) -> str:
    """The value under ``key`` as a message prints it: one line, cut to 60 characters."""
    if key not in entry:
        return "missing"
    shown = repr(entry[key])
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)


def _finite(values: list[Any]) -> bool:
    """True where all are numbers (not booleans) and finite."""
    if not set(map(type, values)) <= {int, float}:
        return False
    try:
        return all(map(math.isfinite, values))
    except OverflowError:  # a whole number beyond the range of a float
        return False


def _near_picture(
    name: str, values: list[float] | tuple[float, ...], height: int, width: int
) -> None:
    """Refuse coordinates more than one picture away: the COCO API computes with 32-bit integers."""
    side = max(height, width)
    if min(values) < -side or max(values) > 2 * side:
        far = max(values, key=lambda v: abs(v - side / 2))
        raise InputError(
            f"`{name}` has the coordinate {far:.6g}; allowed: {-side} to {2 * side}, "
            f"one picture of {width} x {height} to each side"
        )
