"""The page: one HTML file that needs nothing from elsewhere.

Charts of every accuracy and runtime are drawn here and switched by a small script; without it the
first ones and the table are there. The page's own policy lets a browser load nothing and run that
one script alone.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from mobius_seg.pareto.chart import Mark, draw, shape
from mobius_seg.pareto.front import front
from mobius_seg.pareto.notes import facts, notes
from mobius_seg.pareto.point import Point
from mobius_seg.pareto.table import head, table_row
from mobius_seg.terminal import printable

FIGURES = {
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "agnostic_mask_ap": "mask AP, names ignored",
}
COSTS = {
    "time": ("latency_ms_median", "ms for one picture"),
    "GMAC": ("gmac", "GMAC for one picture"),
}
ALL = "all"
TITLE = "Accuracy against time and cost"
_FILES = Path(__file__).parent

Views = dict[str, list[int]]


def render(
    points: Sequence[Point], conditions: Mapping[str, Any], left_out: Sequence[str] = ()
) -> str:
    """The page's text.

    Args:
        points: at least one.
        conditions: of the run, as ``mobius-seg pareto`` collects them.
        left_out: lines about what could not be measured.
    """
    style, script = _read("page.css"), _read("page.js")
    seen = views(points)
    fronts = front_marks(points, seen)
    variants = list(dict.fromkeys((point.model, point.side) for point in points))
    first = (next(iter(FIGURES)), next(iter(seen)))
    lines = [
        table_row(point, f"r{i}", fronts[i], _shown_front(fronts[i], first))
        for i, point in enumerate(points)
    ]
    values = {"conditions": dict(conditions), "points": [point.to_dict() for point in points]}
    filled = Template(_read("page.html")).substitute(
        style_hash=_digest(style),
        script_hash=_digest(script),
        title=TITLE,
        style=style,
        script=script,
        lead=f"{len(points)} points on one machine; the best lie up and to the left.",
        facts="\n".join(
            f"<div><dt>{k}</dt><dd>{plain(v)}</dd></div>" for k, v in facts(conditions)
        ),
        figure_choices=_choices("figure", FIGURES),
        view_choices=_choices("view", {key: _view_name(key) for key in seen}),
        charts="\n".join(_charts(points, seen)),
        legend=_legend(points, variants),
        head=head(),
        rows="\n".join(lines),
        data=embed(values | {"left_out": list(left_out)}),
        notes="\n".join(f"<li>{plain(note)}</li>" for note in notes(points, conditions)),
        left_out=_left_out(left_out),
    )
    return filled.encode("utf-8", "replace").decode()  # file names may hold half characters


def plain(text: object) -> str:
    """Any text as part of the page: never markup, in an attribute neither."""
    return escape(printable(str(text)))


def embed(values: Mapping[str, Any]) -> str:
    """JSON that cannot end the element it stands in: no ``<``, ``>`` or ``&`` is left in it.

    Args:
        values: without NaN and infinity.
    """
    text = json.dumps(values, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def views(points: Sequence[Point]) -> Views:
    """What is shown together: every runtime, where there are several, then each alone.

    Args:
        points: all.

    Returns:
        Indices of the points by key.
    """
    runtimes = list(dict.fromkeys(point.runtime for point in points))
    every = {ALL: list(range(len(points)))} if len(runtimes) > 1 else {}
    return every | {
        runtime: [i for i, point in enumerate(points) if point.runtime == runtime]
        for runtime in runtimes
    }


def front_marks(points: Sequence[Point], seen: Views) -> list[list[str]]:
    """For each point where it is on the front, as ``figure:view:cost``.

    Args:
        points: all.
        seen: of :func:`views`.
    """
    found: list[list[str]] = [[] for _ in points]
    for figure in FIGURES:
        for view, members in seen.items():
            for cost, (field, _) in COSTS.items():
                costs = [getattr(points[i], field) for i in members]
                flags = front(costs, [getattr(points[i], figure) for i in members])
                for i, on in zip(members, flags, strict=True):
                    if on:
                        found[i].append(f"{figure}:{view}:{cost}")
    return found


def short_names(models: Sequence[str]) -> dict[str, str]:
    """The last part of each path that says something; whole names where two would be alike.

    Args:
        models: as the user wrote them.
    """
    short = {}
    for model in dict.fromkeys(models):
        parts = [part for part in Path(model).parts if part != "model"]
        short[model] = parts[-1] if parts else model
    return {
        model: name if list(short.values()).count(name) == 1 else model
        for model, name in short.items()
    }


def _charts(points: Sequence[Point], seen: Views) -> Iterator[str]:
    """Both charts of each accuracy and view; the first ones are seen without the script."""
    short = short_names([point.model for point in points])
    number = 0
    for figure, worth in FIGURES.items():
        for view, members in seen.items():
            hidden = " hidden" if number >= len(COSTS) else ""
            for cost, (field, unit) in COSTS.items():
                marks = [_mark(points, i, figure, field, view, short) for i in members]
                title = f"{worth} against {unit}, {_view_name(view)}"
                drawn = draw(marks, number=number, title=title, x_title=unit, y_title=worth)
                yield (
                    f'<figure class="chart" data-figure="{figure}" data-view="{view}"'
                    f' data-cost="{cost}"{hidden}><figcaption>{plain(worth)} against'
                    f" {'time' if cost == 'time' else 'cost'}</figcaption>\n{drawn}\n"
                    '<p class="detail">Point at a mark, or reach it with the keyboard; Enter'
                    " leads to its row.</p></figure>"
                )
                number += 1


def _mark(
    points: Sequence[Point], index: int, figure: str, field: str, view: str, short: dict[str, str]
) -> Mark:
    """A point in one chart."""
    point = points[index]
    variants = list(dict.fromkeys((other.model, other.side) for other in points))
    shapes = list(dict.fromkeys(other.operating_point for other in points))
    words = [short[point.model], str(point.side), point.operating_point]
    words += [point.runtime] if view == ALL else []
    worth = 100 * getattr(point, figure)
    text = (
        f"{point.label}: {FIGURES[figure]} {worth:.1f}, {point.latency_ms_median:.1f} ms"
        f" (95 %: {point.latency_ms_p95:.1f}), {point.gmac:.3g} GMAC"
    )
    return Mark(
        cost=getattr(point, field),
        worth=worth,
        label=printable(" ".join(words)),
        text=printable(text),
        colour=variants.index((point.model, point.side)),
        shape=shapes.index(point.operating_point),
        row=f"r{index}",
    )


def _legend(points: Sequence[Point], variants: Sequence[tuple[str, int]]) -> str:
    """Colours of models and sizes, shapes of operating points."""
    colours = [
        f"<span>{shape(0, i)} {plain(f'{model} {side}')}</span>"
        for i, (model, side) in enumerate(variants)
    ]
    shapes = dict.fromkeys(point.operating_point for point in points)
    marks = [f"<span>{shape(i, -1)} {plain(name)}</span>" for i, name in enumerate(shapes)]
    marks += ["<span>dashed: the front; faded: dominated</span>"]
    return "\n".join(f"<div>{''.join(line)}</div>" for line in (colours, marks))


def _choices(name: str, texts: Mapping[str, str]) -> str:
    """A row of choices, the first one taken."""
    return "\n".join(
        f'<label><input type="radio" name="{name}" value="{key}"{" checked" * (i == 0)}>'
        f" {plain(text)}</label>"
        for i, (key, text) in enumerate(texts.items())
    )


def _view_name(view: str) -> str:
    return "every runtime" if view == ALL else view


def _shown_front(marks: Sequence[str], first: tuple[str, str]) -> list[str]:
    """Costs by which a point is on the front of the charts that are seen first."""
    return [cost for cost in COSTS if ":".join((*first, cost)) in marks]


def _left_out(lines: Sequence[str]) -> str:
    """What could not be measured."""
    if not lines:
        return ""
    entries = "\n".join(f"<li>{plain(line)}</li>" for line in lines)
    return f"<h2>Left out</h2>\n<ul>\n{entries}\n</ul>"


def _digest(text: str) -> str:
    """A text as the page's policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")
