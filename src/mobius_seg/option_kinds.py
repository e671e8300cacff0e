"""Kinds of command-line values: each reads a text or says what is allowed."""

import argparse
import math

MAX_COUNT = 10**9
MAX_THREADS = 1024


def fraction(text: str) -> float:
    """A finite number in 0..1."""
    value = number(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a number from 0 to 1")
    return value


def points(text: str) -> float:
    """A finite number from 0 to 100."""
    value = number(text)
    if not 0.0 <= value <= 100.0:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a number from 0 to 100")
    return value


def margin(text: str) -> float:
    """A finite number from 0 to 10."""
    value = number(text)
    if not 0.0 <= value <= 10.0:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a number from 0 to 10")
    return value


def positive(text: str) -> float:
    """A finite number above 0."""
    value = number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a number above 0")
    return value


def from_zero(text: str) -> float:
    """A finite number from 0."""
    value = number(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a number from 0")
    return value


def count(text: str) -> int:
    """A whole number from 1, of things that a machine can count through."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a whole number from 1")
    if value > MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is above {MAX_COUNT}")
    return value


def sides(text: str) -> tuple[int, int]:
    """Height and width, such as 800x1344."""
    height, _, width = text.partition("x")
    try:
        return count(height), count(width)
    except argparse.ArgumentTypeError:
        message = f"{text!r:.60} is no height and width such as 800x1344"
        raise argparse.ArgumentTypeError(message) from None


def threads(text: str) -> int:
    """A number of CPU threads that a machine can start."""
    value = count(text)
    if value > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is above {MAX_THREADS}")
    return value


def number(text: str) -> float:
    """A finite number, or NaN, which no range holds."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
