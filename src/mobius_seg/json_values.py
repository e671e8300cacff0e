"""JSON that files of ours hold, read strictly, and what counts as a number in it."""

import json
import sys
from typing import Any, TypeGuard

_DIGITS = 20  # of a whole number of 64 bits, with its sign


def parse_json(text: str) -> Any:
    """JSON text as values.

    Raises:
        ValueError: it is no JSON, says a key twice (either value would be a guess), holds a whole
            number beyond 64 bits, or is nested too deeply; one line says which.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number that a float holds, and finite; True and False are none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return bool(abs(value) <= sys.float_info.max)  # isfinite fails on whole numbers beyond


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key {key[:60]!r} stands there twice")
        values[key] = value
    return values


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)
