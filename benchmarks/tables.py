"""Markdown pieces of the generated pages."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """A Markdown table.

    Args:
        header: column titles.
        rows: cells; a vertical bar in them is escaped.
        right: columns aligned to the right.
    """
    aligned = set(right)
    rule = ["---:" if column in aligned else "---" for column in range(len(header))]
    lines = [header, rule, *rows]
    return "".join(f"| {' | '.join(c.replace('|', '/') for c in line)} |\n" for line in lines)


def fraction(value: float | None) -> str:
    """A fraction of one as per cent with one decimal; a dash where it is undefined."""
    return "-" if value is None else f"{100 * value:.1f}"


def number(value: float) -> str:
    """A number with about three digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"


def conditions_line(facts: dict[str, Any]) -> str:
    """One sentence: under which conditions the figures above were measured."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    known = ("device", "cores", "versions", "commit", "command", "python", "date")
    more = [f"{key} {value}" for key, value in facts.items() if key not in known and value]
    return (
        f"Measured {facts['date']} at commit {facts['commit']} on {facts['device']}, "
        f"{facts['cores']} cores; {'; '.join(more)}; Python {facts['python']}, {versions}; "
        f"`{facts['command']}`.\n"
    )


def generated(page: str, name: str, text: str) -> str:
    """``page`` with what stands between the markers of ``name`` replaced by ``text``.

    Raises:
        ValueError: the page lacks the markers.
    """
    pattern = re.compile(f"(<!-- {name}:start -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"no <!-- {name}:start --> ... <!-- {name}:end --> in the page")
    return pattern.sub(lambda match: match[1] + text + match[2], page)


def json_file(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when the file is not there."""
    if not path.exists():
        return {}
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
