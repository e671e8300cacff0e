"""The section of costs in ``docs/results.md``, from ``results/cost.json``."""

from typing import Any

from conditions import RESULTS, ROOT
from tables import conditions_line, json_file, table

PICTURE = "limits.png"
INTRO = """\
GMAC (10^9 multiply-accumulates) for one image; {names} names, {text_tokens} text tokens where a
model fuses sub-words. Nothing here is timed: the figures follow from the shapes, and independent
counts agree on them ([cost](cost.md)). *Ratio* is ours through the baseline of the same backbone,
both with all queries and layers.
"""
PIXELS = """\
The pixel decoder alone at more sizes, as a share of the baseline's behind the same backbone with
the same names; the largest share is {largest:.3f}. For phone sizes the baseline is `glee-lite` with
their backbone.
"""
DECODER = """\
What the decoder of `{model}` spends at {height}x{width} with all queries and layers; that of
`{against}` takes {against_gmac:.1f} GMAC:
"""
FLOOR = """\
Selection and memory do not depend on the queries: {least:.3f} of the baseline's decoder is what no
pruning goes below. The whole is {whole:.3f} of it; with a name map at stride 16 it would be
{finer:.3f}, with names pooled in the last layer alone {last:.3f}, without a name map {without:.3f}.
"""
TERMS = {
    "masks": ("masks of the last layer's queries", "queries that are left"),
    "layers": ("layers, their heads without names", "queries of each layer"),
    "selection": ("selection", "tokens that compete, names"),
    "names": ("names pooled under masks in every layer", "queries of each layer"),
    "memory": ("memory, projected once", "tokens that the decoder reads"),
}
POINTS = """\
The decoder at each operating point, through the baseline's with all queries and layers:
"""
LIMITS = """\
The same baseline behind smaller backbones at {height}x{width}: its decoders hardly notice, so they
are what has to shrink.
"""


def cost_section() -> str:
    """The section, or nothing where nothing is stored."""
    stored = json_file(RESULTS / "cost.json")
    if not stored:
        return ""
    parts = ["## Cost against the baseline\n", INTRO.format(**stored["conditions"])]
    parts.append(_pairs(stored["pairs"]))
    largest = max(entry["ratio"] for entry in stored["pixel_decoder"])
    parts += [PIXELS.format(largest=largest), _pixels(stored["pixel_decoder"])]
    parts.append(_decoder(stored["decoder"]))
    parts += [POINTS, _points(stored["points"])]
    height, width = stored["limits"]["size"]
    parts.append(LIMITS.format(height=height, width=width))
    if (ROOT / "docs" / PICTURE).exists():
        parts.append(f"![Cost of the baseline behind three backbones]({PICTURE})\n")
    parts += [_limits(stored["limits"]["backbones"]), conditions_line(stored["conditions"])]
    return "\n".join(parts)


def _pairs(pairs: list[dict[str, Any]]) -> str:
    rows = []
    for pair in pairs:
        height, width = pair["size"]
        row = [f"`{pair['model']}`", f"`{pair['against']}`", f"{height}x{width}"]
        for part in ("pixel_decoder", "transformer_decoder", "total"):
            ours, theirs = pair["gmac"][part], pair["against_gmac"][part]
            row += [f"{ours:.1f}", f"{theirs:.1f}", f"{pair['ratio'][part]:.3f}"]
        rows.append(row)
    header = ["model", "baseline", "size"]
    for part in ("pixel decoder", "transformer decoder", "total"):
        header += [part, "baseline's", "ratio"]
    return table(header, rows, right=range(3, 12))


def _pixels(entries: list[dict[str, Any]]) -> str:
    sizes = list(dict.fromkeys("x".join(map(str, entry["size"])) for entry in entries))
    rows: dict[str, list[str]] = {}
    for entry in entries:
        start = [f"`{entry['model']}`", entry["backbone"], f"`{entry['against']}`"]
        rows.setdefault(entry["model"], start).append(f"{entry['ratio']:.3f}")
    header = ["model", "backbone", "baseline", *sizes]
    return table(header, rows.values(), right=range(3, len(header)))


def _decoder(decoder: dict[str, Any]) -> str:
    height, width = decoder["size"]
    rows = [[*TERMS[key], f"{decoder['terms'][key]:.2f}"] for key in TERMS]
    rows.append(["sum", "", f"{sum(decoder['terms'].values()):.2f}"])
    text = DECODER.format(**decoder, height=height, width=width)
    shown = table(["part", "grows with", "GMAC"], rows, right=[2])
    return "\n".join([text, shown, FLOOR.format(**decoder["ratio"])])


def _points(entries: list[dict[str, Any]]) -> str:
    rows, origins = [], []
    for entry in entries:
        origins.append(entry["origin"])
        rows.append(
            [f"`{entry['model']}`", "x".join(map(str, entry["size"])), f"`{entry['point']}`"]
            + [" ".join(map(str, entry["queries"]))]
            + [f"{entry['gmac']['transformer_decoder']:.1f}"]
            + [f"{entry['ratio'][part]:.3f}" for part in ("transformer_decoder", "total")]
        )
    header = ["model", "size", "point", "queries of each layer", "GMAC", "ratio", "ratio, total"]
    notes = [f"Points of presets are {origin}.\n" for origin in dict.fromkeys(origins) if origin]
    return "\n".join([table(header, rows, right=range(4, 7)), *notes])


def _limits(backbones: dict[str, dict[str, float]]) -> str:
    rows = []
    for name, values in backbones.items():
        total = sum(values.values())
        cells = [f"{gmac:.1f} ({100 * gmac / total:.0f} %)" for gmac in values.values()]
        rows.append([name, *cells, f"{total:.1f}"])
    parts = list(next(iter(backbones.values())))
    return table(["backbone", *parts, "total"], rows, right=range(1, len(parts) + 2))
