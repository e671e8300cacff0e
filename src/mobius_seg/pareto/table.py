"""The page's table: a row a point, every figure a cell."""

from collections.abc import Sequence
from html import escape

from mobius_seg.pareto.point import Point
from mobius_seg.terminal import printable

_NUMBERS = (
    ("mask AP", "mask_ap", 100, 1),
    ("AP50", "mask_ap50", 100, 1),
    ("AP, names ignored", "agnostic_mask_ap", 100, 1),
    ("ms", "latency_ms_median", 1, 1),
    ("ms, 95 %", "latency_ms_p95", 1, 1),
    ("images/s", "throughput_ips", 1, 1),
    ("GMAC", "gmac", 1, 3),
    ("M parameters", "params", 1e-6, 2),
    ("MB of weights", "weights_mb", 1, 1),
    ("MB of graph", "graph_mb", 1, 1),
    ("peak MB", "peak_mb", 1, 0),
)


def head() -> str:
    """Cells of the heading, each a button that sorts."""
    kinds = ("text", "text", "number", "text", "text")
    first = [
        f'<th class="{kind}" scope="col">{_button(title)}</th>'
        for kind, title in zip(kinds, ("front", "model", "size", "point", "runtime"), strict=True)
    ]
    numbers = [f'<th class="number" scope="col">{_button(title)}</th>' for title, *_ in _NUMBERS]
    return "".join([*first, '<th class="text" scope="col">command</th>', *numbers])


def table_row(point: Point, row: str, marks: Sequence[str], shown: Sequence[str]) -> str:
    """A row.

    Args:
        point: what it is of.
        row: its id.
        marks: where the point is on the front, as the script reads it.
        shown: by which costs it is on the front that is seen first.
    """
    on = ' class="on-front"' if shown else ""
    small = f'<span class="small">{_text(point.decoder)}</span>'
    cells = [
        f'<td class="text front">{", ".join(shown)}</td>',
        f'<td class="text wrap">{_text(point.model)}</td>',
        f'<td data-value="{point.side}">{point.side}</td>',
        f'<td class="text wrap">{_text(point.operating_point)}{small}</td>',
        f'<td class="text">{_text(point.runtime)}</td>',
        _command(point, row),
        *(_number(getattr(point, field), *how) for _, field, *how in _NUMBERS),
    ]
    opening = f'<tr id="{row}"{on} data-runtime="{_text(point.runtime)}"'
    return f'{opening} data-front="{" ".join(marks)}">' + "\n".join(cells) + "</tr>"


def _number(value: float | None, factor: float, digits: int) -> str:
    if value is None:
        return '<td data-value="-1">-</td>'
    return f'<td data-value="{factor * value!r}">{factor * value:,.{digits}f}</td>'


def _command(point: Point, row: str) -> str:
    """The lines to copy, as they are."""
    lines = escape("\n".join(point.commands))
    return (
        f'<td class="text command"><button type="button" data-copy="command-{row}"'
        f' aria-label="Copy the command of {_text(point.label)}">Copy</button>'
        f'<details><summary>show</summary><pre id="command-{row}">{lines}</pre></details></td>'
    )


def _button(title: str) -> str:
    return f'<button type="button">{_text(title)}</button>'


def _text(text: object) -> str:
    return escape(printable(str(text)))
