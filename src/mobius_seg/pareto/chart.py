"""A scatter plot with its Pareto front as SVG, for a page whose style gives the colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mobius_seg.pareto.axis import Axis, cost_axis, linear
from mobius_seg.pareto.front import front, steps

COLOURS = 8
"""Classes ``c0``, ``c1``, ... that the page's style knows; more variants begin again."""
_WIDTH, _HEIGHT = 520, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 46
_LETTER, _LINE = 7.8, 17.0  # about the size of a letter of the labels, on a phone the larger
_SHAPES = (
    '<circle r="6"/>',
    '<rect x="-5.5" y="-5.5" width="11" height="11"/>',
    '<path d="M0-7.2 6.6 5H-6.6Z"/>',
    '<path d="M0-7.5 7.5 0 0 7.5-7.5 0Z"/>',
)
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point of a plot.

    Attributes:
        cost: along the horizontal axis.
        worth: along the vertical axis.
        label: a few words that stand beside it where there is room.
        text: what it is, for those who ask.
        colour: number of its colour.
        shape: number of its shape.
        row: id of the table's row that it belongs to.
    """

    cost: float
    worth: float
    label: str
    text: str
    colour: int
    shape: int
    row: str


def shape(number: int, colour: int) -> str:
    """A mark alone, for legends.

    Args:
        number: of the shape.
        colour: number of the colour; below 0 for none in particular.
    """
    name = f"c{colour % COLOURS}" if colour >= 0 else "plain"
    body = _SHAPES[number % len(_SHAPES)]
    return f'<svg class="key {name}" viewBox="-9 -9 18 18" aria-hidden="true">{body}</svg>'


def draw(marks: Sequence[Mark], *, number: int, title: str, x_title: str, y_title: str) -> str:
    """Draw the plot.

    Args:
        marks: at least one.
        number: of the plot on its page, for ids.
        title: what it shows.
        x_title: of the horizontal axis.
        y_title: of the vertical axis.

    Returns:
        An ``svg`` element whose points can be reached with the keyboard; no text of a mark or title
        is taken for markup.
    """
    x = cost_axis([mark.cost for mark in marks])
    y = linear([mark.worth for mark in marks])
    places = [_place(x, y, mark.cost, mark.worth) for mark in marks]
    on_front = front([mark.cost for mark in marks], [mark.worth for mark in marks])
    corners = steps([mark.cost for mark in marks], [mark.worth for mark in marks])
    best = ", ".join(mark.label for mark, on in zip(marks, on_front, strict=True) if on)
    said = f"{len(marks)} points. Not dominated: {best}."
    if x.logarithmic:
        x_title += ", logarithmic"
    parts = [
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="group"'
        f' aria-labelledby="t{number} d{number}">',
        f'<title id="t{number}">{escape(title)}</title><desc id="d{number}">{escape(said)}</desc>',
        *_axes(x, y, x_title, y_title),
        _line([_place(x, y, *corner) for corner in corners]),
    ]
    order = sorted(range(len(marks)), key=lambda i: (on_front[i], marks[i].cost))
    for i in order:  # what is on the front lies on top
        parts.append(_point(marks[i], places[i], on_front[i]))
    parts += _labels([(marks[i], places[i]) for i in order if on_front[i]], places)
    return "\n".join([*parts, "</svg>"])


def _place(x: Axis, y: Axis, cost: float, worth: float) -> tuple[float, float]:
    """Where values lie in the picture."""
    across, up = x.at(cost), y.at(worth)
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return round(_LEFT + across * width, 1), round(_TOP + (1 - up) * height, 1)


def _axes(x: Axis, y: Axis, x_title: str, y_title: str) -> list[str]:
    """Grid lines with their values, and the titles."""
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = ['<g class="axes" aria-hidden="true">']
    for tick in x.ticks:
        at, _ = _place(x, y, tick, y.low)
        parts.append(f'<path d="M{at} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 17}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks:
        _, at = _place(x, y, x.low, tick)
        parts.append(f'<path d="M{_LEFT} {at}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{at + 4}" text-anchor="end">{tick:g}</text>')
    middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
    parts.append(f'<path class="frame" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
    parts.append(
        f'<text class="name" x="{middle_x}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x_title)}</text>"
    )
    parts.append(
        f'<text class="name" transform="translate(13 {middle_y}) rotate(-90)"'
        f' text-anchor="middle">{escape(y_title)}</text></g>'
    )
    return parts


def _line(places: Sequence[tuple[float, float]]) -> str:
    """The front: what a cost buys is held until more is bought."""
    (x, y), *rest = places
    path = f"M{x} {_HEIGHT - _BOTTOM}V{y}" + "".join(f"H{x}V{y}" for x, y in rest)
    return f'<path class="front-line" d="{path}H{_WIDTH - _RIGHT}" aria-hidden="true"/>'


def _point(mark: Mark, place: tuple[float, float], on_front: bool) -> str:
    """A mark that can be focused and says what it is."""
    kind = "on-front" if on_front else "dominated"
    text = escape(mark.text + ("" if on_front else "; dominated"))
    return (
        f'<g class="point c{mark.colour % COLOURS} {kind}" tabindex="0" role="img"'
        f' aria-label="{text}" data-row="{escape(mark.row)}"'
        f' transform="translate({place[0]} {place[1]})">'
        f"<title>{text}</title>{_SHAPES[mark.shape % len(_SHAPES)]}</g>"
    )


def _labels(
    marks: Sequence[tuple[Mark, tuple[float, float]]], places: Sequence[tuple[float, float]]
) -> list[str]:
    """Labels of the front's points, each where it covers neither a point nor another label."""
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in places]
    parts = []
    for mark, (x, y) in marks:
        width = _LETTER * len(mark.label)
        for dx, dy, anchor in (
            (-9, -7, "end"),
            (9, 16, "start"),
            (9, -7, "start"),
            (-9, 16, "end"),
        ):
            left = x + dx - (width if anchor == "end" else 0)
            box = (left, y + dy - _LINE + 3, left + width, y + dy + 3)
            inside = box[0] >= _LEFT and box[2] <= _WIDTH and box[1] >= 0
            if inside and box[3] <= _HEIGHT - _BOTTOM and not any(_meet(box, b) for b in taken):
                taken.append(box)
                parts.append(
                    f'<text class="label" aria-hidden="true" x="{x + dx:.1f}" y="{y + dy:.1f}"'
                    f' text-anchor="{anchor}">{escape(mark.label)}</text>'
                )
                break
    return parts


def _meet(a: Box, b: Box) -> bool:
    """Whether two boxes x0 y0 x1 y1 overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
