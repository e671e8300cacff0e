"""Parts of `mobius-seg pareto`: the front, scales, charts, the page, commands, kept figures."""

import base64
import hashlib
import json
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mobius_seg.cli_options import build_parser
from mobius_seg.cost.report import measure as measure_cost
from mobius_seg.errors import InputError
from mobius_seg.export.schedule import Schedule
from mobius_seg.pareto.accuracy import square_gmac
from mobius_seg.pareto.axis import cost_axis, linear
from mobius_seg.pareto.chart import Mark, draw
from mobius_seg.pareto.front import front, steps
from mobius_seg.pareto.page import embed, front_marks, render, short_names, views
from mobius_seg.pareto.point import Point, commands_for, decoder_in_words, plain_name
from mobius_seg.pareto.request import Setting
from mobius_seg.pareto.store import Store
from mobius_seg.pareto.timing import vocabulary
from mobius_seg.predictor import Predictor
from mobius_seg.presets import get_preset
from mobius_seg.pruning import PruningPolicy

Costs = list[tuple[float, float]]
EVIL = """runs/<script>alert("1")</script>&'x' ]]>"""
CONDITIONS: dict[str, Any] = {
    "device": "Some <b>CPU</b>", "cores": 2, "threads": 2, "python": "3.11.7",
    "versions": {"torch": "2.13.0", "onnxruntime": None}, "date": "2026-01-02", "runs": 10,
    "blocks": 7, "vocabulary": "fixed", "annotations": "val</script>.json", "split": None,
    "annotations_sha256": "ab" * 32, "images": 500, "names": 2, "instances": 900,
}  # fmt: skip


@pytest.mark.parametrize(
    ("costs", "worths", "flags"),
    [
        ([], [], []),
        ([3.0], [0.0], [True]),
        ([1, 2, 3], [1, 2, 3], [True, True, True]),
        ([1, 2, 3], [3, 2, 1], [True, False, False]),
        ([1, 1], [1, 2], [False, True]),  # as dear, worth less
        ([1, 2], [2, 2], [True, False]),  # worth as much, dearer
        ([1, 1, 2], [2, 2, 2], [True, True, False]),  # equal ones stay together
        ([1, 1, 1], [1, 2, 1], [False, True, False]),
        ([2, 2, 1], [1, 1, 3], [False, False, True]),
    ],
)
def test_the_front(costs: list[float], worths: list[float], flags: list[bool]) -> None:
    assert front(costs, worths) == flags


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_is_what_nothing_dominates(pairs: list[tuple[int, int]]) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] <= b[0] and a[1] >= b[1] and a != b

    wanted = [not any(beats(other, pair) for other in pairs) for pair in pairs]
    assert front([a for a, _ in pairs], [b for _, b in pairs]) == wanted


def test_steps_rise_and_name_each_corner_once() -> None:
    assert steps([3, 1, 1, 2], [9, 4, 4, 3]) == [(1, 4), (3, 9)]


def test_scales() -> None:
    even = linear([20.0, 24.0, 31.0])
    assert even.low < 20
    assert even.high > 31
    assert all(even.low <= tick <= even.high for tick in even.ticks)
    assert 3 <= len(even.ticks) <= 8
    assert even.at(even.low) == 0
    assert linear([0.0]).low == 0
    assert linear([7.0]).at(7.0) == pytest.approx(0.5)
    wide = cost_axis([2.0, 200.0])
    assert wide.logarithmic
    assert wide.ticks == (2, 5, 10, 20, 50, 100, 200)
    assert wide.at(20) == pytest.approx(0.5)
    assert not cost_axis([2.0, 9.0]).logarithmic


def test_a_chart_marks_what_is_dominated_and_takes_no_markup() -> None:
    values = ((1.0, 20.0, "cheap"), (2.0, 30.0, EVIL), (3.0, 25.0, "beaten"))
    marks = [
        Mark(cost=c, worth=w, label=t, text=t, colour=9, shape=i, row=f"r{i}")
        for i, (c, w, t) in enumerate(values)
    ]
    page = _parse(draw(marks, number=4, title="<T>", x_title="ms & more", y_title="AP"))
    points = [attributes for tag, attributes in page.tags if attributes.get("tabindex")]
    assert [tag for tag, _ in page.tags].count("script") == 0
    assert {point["aria-label"] for point in points} == {"cheap", EVIL, "beaten; dominated"}
    kinds = {point["data-row"]: point["class"] for point in points}
    assert kinds == {
        "r0": "point c1 on-front",
        "r1": "point c1 on-front",
        "r2": "point c1 dominated",
    }
    assert "t4 d4" in {attributes.get("aria-labelledby") for _, attributes in page.tags}
    assert "<T>" in page.texts["title"]
    assert f"3 points. Not dominated: cheap, {EVIL}." in page.texts["desc"]
    (line,) = (a["d"] for _, a in page.tags if a.get("class") == "front-line")
    places = {p["data-row"]: p["transform"][10:-1].split() for p in points}
    (x0, y0), (x1, y1) = places["r0"], places["r1"]
    assert line == f"M{x0} 314V{y0}H{x1}V{y1}H506"  # held until more is bought


class _Page(HTMLParser):
    """Tags with their attributes, and the texts of each tag."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in ("meta", "input", "path", "circle", "rect"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)


def _parse(text: str) -> _Page:
    page = _Page()
    page.feed(text)
    page.close()
    assert not page._open
    return page


def _setting(**changes: Any) -> Setting:
    policy = PruningPolicy.static((6, 3), 2)
    values: dict[str, Any] = {
        "model": "mobius-n", "side": 320, "runtimes": ("onnx",), "weights": "00",
        "config": get_preset("mobius-test"), "calibration": None, "weights_mb": 10.3,
        "schedule": Schedule(point="fast", policy=policy, origin="static: tuned"),
    }  # fmt: skip
    return Setting(**values | changes)


def _point(**changes: Any) -> Point:
    values: dict[str, Any] = {
        "model": "mobius-n", "side": 320, "operating_point": "full", "runtime": "torch",
        "adaptive": False, "decoder": "4 x 100 queries", "origin": "nothing is pruned",
        "mask_ap": 0.245, "mask_ap50": 0.36, "agnostic_mask_ap": 0.37, "latency_ms_median": 40.0,
        "latency_ms_p95": 50.0, "throughput_ips": 24.0, "peak_mb": 400.0, "gmac": 1.8,
        "params": 5_000_000, "weights_mb": 10.3, "graph_mb": None,
        "commands": ("mobius-seg segment photo.jpg --names cup --model mobius-n",),
    }  # fmt: skip
    return Point(**values | changes)


def _points() -> list[Point]:
    evil = commands_for(_setting(model=EVIL), "onnx", ("cup",), 2, "fixed")
    return [
        _point(),
        _point(
            operating_point="fast", mask_ap=0.2, latency_ms_median=30.0, gmac=1.0, adaptive=True
        ),
        _point(runtime="onnx", latency_ms_median=20.0),
        _point(runtime="onnx", model=EVIL, mask_ap=0.1, graph_mb=20.5, commands=evil),
    ]


def test_the_page_needs_nothing_and_lets_nothing_in() -> None:
    text = render(_points(), CONDITIONS, [f"left {EVIL}"])
    page = _parse(text)
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 2
    assert not {"link", "img", "iframe", "object", "embed", "base", "image", "use"} & set(names)
    for _, attributes in page.tags:
        fetching = {"src", "href", "xlink:href", "srcset", "action", "data", "style"}
        assert not fetching & set(attributes), attributes
        assert not [key for key in attributes if key.startswith("on")]
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text
    policy = next(a["content"] for _, a in page.tags if "content-security-policy" in str(a).lower())
    assert policy.startswith("default-src 'none'")
    data, script = page.texts["script"]
    for kind, source in (("script", script), ("style", page.texts["style"][0])):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert json.loads(data)["points"][3]["model"] == EVIL
    assert f"left {EVIL}" in page.texts["li"]


def test_the_page_holds_every_figure_and_command() -> None:
    points = _points()
    page = _parse(render(points, CONDITIONS))
    rows = {a["id"]: a for tag, a in page.tags if tag == "tr" and "id" in a}
    assert list(rows) == ["r0", "r1", "r2", "r3"]
    assert page.texts["pre"] == ["\n".join(point.commands) for point in points]
    for row in rows:
        assert {"data-copy": f"command-{row}"}.items() <= next(
            a.items() for _, a in page.tags if a.get("data-copy") == f"command-{row}"
        )
    charts = [a for tag, a in page.tags if tag == "figure"]
    assert len(charts) == 3 * 3 * 2  # accuracies, views, costs
    shown = [(a["data-figure"], a["data-view"]) for a in charts if "hidden" not in a]
    assert shown == [("mask_ap", "all")] * 2
    choices = [a["value"] for tag, a in page.tags if tag == "input"]
    assert choices == ["mask_ap", "mask_ap50", "agnostic_mask_ap", "all", "torch", "onnx"]
    assert sum(a.get("class", "").startswith("point ") for _, a in page.tags) == 3 * 2 * 8
    assert {"24.5", "37.0", "1.000", "5.00", "20.5"} <= set(page.texts["td"])
    notes = " ".join(page.texts["li"])
    for words in ("7 blocks of 10 counted runs", "look at each picture", "fixed in the graph"):
        assert words in notes
    assert "Some <b>CPU</b>, 2 cores" in page.texts["dd"]
    assert "Python 3.11.7, torch 2.13.0" in page.texts["dd"]  # not what is not installed


def test_one_runtime_is_one_view() -> None:
    page = _parse(render([_point()], CONDITIONS))
    assert [a["data-view"] for tag, a in page.tags if tag == "figure"] == ["torch"] * 6
    assert "fixed in the graph" not in " ".join(page.texts["li"])


def test_fronts_of_views() -> None:
    points = _points()
    seen = views(points)
    assert seen == {"all": [0, 1, 2, 3], "torch": [0, 1], "onnx": [2, 3]}
    marks = front_marks(points, seen)
    assert "mask_ap:torch:time" in marks[0]
    assert "mask_ap:all:time" not in marks[0]  # the graph is as good and faster
    assert {"mask_ap:all:GMAC", "mask_ap:torch:GMAC"} <= set(marks[0])
    assert "mask_ap:all:time" in marks[2]
    assert not [mark for mark in marks[3] if mark.startswith("mask_ap:")]


def test_file_names_that_are_no_text_are_shown() -> None:
    assert "bad ?name" in render([_point(model="bad \udc80name")], CONDITIONS)


def test_embedded_values_cannot_end_their_element() -> None:
    values = {"a": "</script><!--<script>&amp;\u2028", "b": [1.5, None]}
    text = embed(values)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == values


def test_short_names_stay_apart() -> None:
    assert short_names(["mobius-n", "runs/mine/model"]) == {
        "mobius-n": "mobius-n",
        "runs/mine/model": "mine",
    }
    assert short_names(["a/x", "b/x"]) == {"a/x": "a/x", "b/x": "b/x"}


@pytest.mark.parametrize(
    "model", ["mobius-n", "runs/my model", EVIL, "-m", "--out", "run's", "a\nb"]
)
@pytest.mark.parametrize("runtime", ["torch", "onnx", "openvino"])
@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_commands_are_commands(model: str, runtime: str, kind: str) -> None:
    setting = _setting(model=model)
    lines = commands_for(setting, runtime, ("-x", "a,b", "tea cup", "Löffel", "cat"), 2, kind)
    asked = []
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "mobius-seg"
        asked.append(build_parser().parse_args(arguments))
    assert asked[-1].command == "segment"
    assert asked[-1].names == "tea cup,Löffel"
    assert asked[-1].threads == 2
    if runtime == "torch":
        (own,) = asked
        assert (own.model, own.size, own.operating_point) == (model, 320, "fast")
        return
    export, used = asked
    assert (export.model, export.format, export.operating_point) == (model, runtime, "fast")
    assert export.size == (320, 320)
    assert (export.names is None) == export.dynamic_names == (kind == "dynamic")
    assert str(export.out) == used.model


def test_commands_without_plain_names_have_examples() -> None:
    (line,) = commands_for(_setting(), "torch", ("a,b", "?"), 2, "fixed")
    assert "--names cup,spoon" in line


def test_plain_names_are_names_of_folders() -> None:
    assert plain_name("runs/mobius-n/model") == "runs-mobius-n-model"
    assert plain_name("../..") == "model"
    assert "/" not in plain_name(EVIL)


def test_the_decoder_in_words() -> None:
    assert decoder_in_words(_setting()) == "6 3 queries"
    full = Schedule(point="full", policy=PruningPolicy(), origin="")
    assert decoder_in_words(_setting(schedule=full)) == "2 x 12 queries"
    adaptive = PruningPolicy(thresholds=(0.0,), floors=((0.1,),))
    own = Schedule(point="fast", policy=adaptive, origin="")
    assert decoder_in_words(_setting(schedule=own)) == "each picture on its own"
    none = Schedule(point="fast", policy=PruningPolicy.static((), 0), origin="")
    assert decoder_in_words(_setting(schedule=none)) == "no layer, 12 queries"


def test_a_label_says_what_form_a_point_has() -> None:
    assert _setting().label == "mobius-n 320 fast (static)"
    full = Schedule(point="full", policy=PruningPolicy(), origin="")
    assert _setting(schedule=full).label == "mobius-n 320 full"


@pytest.mark.parametrize("keep", [(), (6, 3)])
def test_cost_is_that_of_a_square_picture(
    predictor: Predictor, photo: NDArray[np.uint8], keep: tuple[int, ...]
) -> None:
    """A flat picture counts as if it filled the input, and agrees with `mobius-seg profile`."""
    names, policy = ["cup", "spoon", "cat"], PruningPolicy.static(keep)
    found = predictor.predict(photo, names=names, size=64, operating_point=policy)
    receipt = found.receipt
    assert receipt is not None
    assert receipt.input_hw == (64, 64) or receipt.gmac["total"] < square_gmac(receipt, 64)
    wide = replace(receipt, input_hw=(32, 64), text_known=True, masks=1)
    assert square_gmac(wide, 64) == square_gmac(receipt, 64)
    if not keep:
        profile = measure_cost("mobius-test", (64, 64), len(names), len(names) + 1)
        assert square_gmac(receipt, 64) == pytest.approx(profile.gmac, rel=1e-3)
    else:
        assert square_gmac(receipt, 64) < square_gmac(replace(receipt, queries=(12, 12, 12)), 64)


def test_kept_figures_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pareto.json"
    store = Store(path)
    key = {"weights_sha256": "ab", "size": 64, "policy": PruningPolicy.static((3,)).to_dict()}
    assert store.find(key) is None
    store.keep(key, {"mask_ap": 0.5})
    store.keep(key | {"size": 96}, {"mask_ap": 0.6})
    store.keep(key, {"mask_ap": 0.7})  # in place of the first
    again = Store(path)
    assert again.find(key) == {"mask_ap": 0.7}
    assert again.find(key | {"size": 96}) == {"mask_ap": 0.6}
    assert again.find(key | {"size": 128}) is None
    assert len(again.values["accuracy"]) == 2
    again.finish({"threads": 1}, [{"model": "m"}], ["x"])
    values = json.loads(path.read_text())
    assert (values["points"], values["left_out"]) == ([{"model": "m"}], ["x"])
    assert Store(path).find(key) == {"mask_ap": 0.7}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"written_by": "mobius-seg pareto", "format": 9, "accuracy": []}',
     '{"written_by": "mobius-seg pareto", "format": 1, "accuracy": [{"key": 1, "figures": {}}]}',
     '{"written_by": "mobius-seg pareto", "format": 1,'
     ' "accuracy": [{"key": {}, "figures": {"mask_ap": "0.5"}}]}'],
)  # fmt: skip
def test_another_file_is_not_written_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match="holds no figures of this command"):
        Store(path)
    assert path.read_text() == text


def test_names_of_graphs_are_fixed_as_long_as_there_are_any() -> None:
    assert vocabulary(2) == "fixed"
    assert vocabulary(100_000) == "dynamic"
