"""What a run is judged on, as data; imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

from mobius_seg.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a run is judged on, and how often.

    Attributes:
        annotations: COCO instance file; its names are the vocabulary.
        images: folder of its pictures.
        steps: steps between judgements; the end of the run is judged too.
        limit: only the first so many pictures.
    """

    annotations: Path
    images: Path
    steps: int = 200
    limit: int | None = None

    def __post_init__(self) -> None:
        """Reject what cannot be counted.

        Raises:
            InputError: names the field, the value and what is allowed.
        """
        for name, value in (("steps", self.steps), ("limit", self.limit)):
            whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
            if not whole and not (name == "limit" and value is None):
                raise InputError(f"Validation.{name} is {value!r:.60}; allowed: 1 or more")
