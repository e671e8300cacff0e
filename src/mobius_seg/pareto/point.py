"""A row of figures: one setting in one runtime, and the commands that use it."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mobius_seg.pareto.request import TORCH, Setting

EXAMPLE_NAMES = ("cup", "spoon")
"""In commands, where the data set has no names that are as plain."""
_PLAIN = re.compile(r"\w[\w ]*")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One row.

    Attributes:
        model: as the user wrote it.
        side: of the square input in pixels.
        operating_point: ``full``, ``balanced`` or ``fast``.
        runtime: that it was timed in.
        adaptive: whether the decoder looks at each picture.
        decoder: what of it runs, in a few words.
        origin: where the schedule comes from.
        mask_ap: average precision of masks, a fraction of 1.
        mask_ap50: the same at an IoU of 0.5.
        agnostic_mask_ap: the same with names ignored.
        latency_ms_median: of the network for one picture.
        latency_ms_p95: 95th percentile.
        throughput_ips: pictures a second, one after the other.
        peak_mb: largest memory of the process that ran it.
        gmac: 10^9 multiply-accumulates a picture, the mean where it depends on the picture.
        params: number of parameters of the weights.
        weights_mb: size of the weight file in 10^6 bytes.
        graph_mb: size of the exported folder; None for torch.
        commands: lines that use the point.
    """

    model: str
    side: int
    operating_point: str
    runtime: str
    adaptive: bool
    decoder: str
    origin: str
    mask_ap: float
    mask_ap50: float
    agnostic_mask_ap: float
    latency_ms_median: float
    latency_ms_p95: float
    throughput_ips: float
    peak_mb: float
    gmac: float
    params: int
    weights_mb: float
    graph_mb: float | None
    commands: tuple[str, ...]

    @property
    def label(self) -> str:
        """What tells it from the others."""
        return f"{self.model} {self.side} {self.operating_point} {self.runtime}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"commands": list(self.commands)}


def make_point(
    setting: Setting,
    row: dict[str, Any],
    figures: dict[str, float],
    params: int,
    commands: Sequence[str],
) -> Point:
    """Put a row together.

    Args:
        setting: what ran.
        row: of the benchmark.
        figures: of :mod:`mobius_seg.pareto.accuracy`.
        params: of the model.
        commands: of :func:`commands_for`.
    """
    timed = ("latency_ms_median", "latency_ms_p95", "throughput_ips", "peak_mb")
    return Point(
        model=setting.model,
        side=setting.side,
        operating_point=setting.schedule.point,
        runtime=row["runtime"],
        adaptive=setting.adaptive,
        decoder=decoder_in_words(setting),
        origin=setting.schedule.origin,
        **{key: row[key] for key in timed},
        **figures,
        params=params,
        weights_mb=setting.weights_mb,
        graph_mb=row.get("file_mb"),
        commands=tuple(commands),
    )


def decoder_in_words(setting: Setting) -> str:
    """What of the decoder runs."""
    if setting.adaptive:
        return "each picture on its own"
    queries = setting.schedule.queries(setting.config)
    if len(queries) == 1:
        return f"no layer, {queries[0]} queries"
    if len(set(queries)) == 1:
        return f"{len(queries) - 1} x {queries[0]} queries"
    return " ".join(map(str, queries[1:])) + " queries"


def commands_for(
    setting: Setting, runtime: str, names: Sequence[str], threads: int, vocabulary: str
) -> tuple[str, ...]:
    """Command lines for a POSIX shell that use a point; picture and names are examples.

    Args:
        setting: what runs.
        runtime: where.
        names: of the data set; two plain ones are taken.
        threads: CPU threads.
        vocabulary: of graphs, ``fixed`` or ``dynamic``.

    Returns:
        ``segment``, or for a graph ``export`` and ``segment``.
    """
    plain = [name for name in names if _PLAIN.fullmatch(name)][:2] or EXAMPLE_NAMES
    asked = ("--names", ",".join(plain))
    model, point = setting.model, setting.schedule.point
    if runtime == TORCH:
        own = ("--model", model, "--size", str(setting.side), "--operating-point", point)
        return (_line("segment", "photo.jpg", asked, own, ("--threads", str(threads))),)
    folder = f"{plain_name(model)}-{setting.side}-{point}-{runtime}"
    size = f"{setting.side}x{setting.side}"
    graph = ("--model", model, "--format", runtime, "--operating-point", point, "--size", size)
    inside = asked if vocabulary == "fixed" else ()
    extra = "" if inside else "--dynamic-names"
    export = _line("export", extra, graph, inside, ("--out", folder))
    used = ("--model", folder, "--threads", str(threads))
    return export, _line("segment", "photo.jpg", asked, used)


def plain_name(model: str) -> str:
    """A model's name or path as part of a folder's name."""
    return re.sub(r"[^\w.]+", "-", model, flags=re.ASCII).strip("-.") or "model"


def _line(command: str, first: str, *options: Sequence[str]) -> str:
    """A command line; a value that begins with a dash is joined to its option."""
    parts = ["mobius-seg", command, *filter(None, (first,))]
    for group in options:
        for flag, value in zip(group[::2], group[1::2], strict=True):
            quoted = shlex.quote(value)
            parts.append(f"{flag}={quoted}" if value.startswith("-") else f"{flag} {quoted}")
    return " ".join(parts)
