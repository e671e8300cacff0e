"""The file beside the page: figures of finished runs, and what an interrupted run goes on from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobius_seg.errors import InputError
from mobius_seg.files import write_text

_FORMAT = 1
_WHAT = "mobius-seg pareto"
Key = dict[str, Any]


class Store:
    """Accuracy by what it depends on, on disk after each one.

    Args:
        path: of the file; it need not be there.

    Raises:
        InputError: the file is something else, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        """See the class."""
        self.path = path
        self.values: dict[str, Any] = {"written_by": _WHAT, "format": _FORMAT, "accuracy": []}
        if path.exists():
            self.values = _read(path)

    def find(self, key: Key) -> dict[str, Any] | None:
        """The figures of a key, None where they are not known."""
        for entry in self.values["accuracy"]:
            if entry["key"] == key:
                return dict(entry["figures"])
        return None

    def keep(self, key: Key, figures: Mapping[str, Any]) -> None:
        """Add figures, in place of those of the same key, and write the file.

        Raises:
            InputError: it cannot be written.
        """
        others = [entry for entry in self.values["accuracy"] if entry["key"] != key]
        self.values["accuracy"] = [*others, {"key": key, "figures": dict(figures)}]
        self._write()

    def finish(
        self,
        conditions: Mapping[str, Any],
        points: Sequence[Mapping[str, Any]],
        left_out: Sequence[str],
    ) -> None:
        """Write a finished run beside what is kept.

        Args:
            conditions: of the run.
            points: its rows.
            left_out: lines about what could not be measured.

        Raises:
            InputError: the file cannot be written.
        """
        run = {"conditions": dict(conditions), "points": list(points), "left_out": list(left_out)}
        self.values = {**self.values, **run}
        self._write()

    def _write(self) -> None:
        text = json.dumps(self.values, indent=1, allow_nan=False) + "\n"
        try:
            write_text(self.path, text)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.path}: cannot be written: {reason}") from None


def _read(path: Path) -> dict[str, Any]:
    """The file's object, its kept entries checked."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError:
        values = None
    ours = isinstance(values, dict) and values.get("written_by") == _WHAT
    if not ours or values.get("format") != _FORMAT or not _fits(values.get("accuracy")):
        raise InputError(
            f"{path}: holds no figures of this command; move it away or give another --json"
        )
    found: dict[str, Any] = values
    return found


def _fits(entries: object) -> bool:
    """Whether these are kept figures."""
    return isinstance(entries, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("key"), dict)
        and isinstance(entry.get("figures"), dict)
        and all(type(value) in (int, float) for value in entry["figures"].values())
        for entry in entries
    )
