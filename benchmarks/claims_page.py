"""The sections of the claims in ``docs/results.md``, from the result files that are there."""

from collections.abc import Callable
from typing import Any

from claims_prose import CALIBRATION, PIXEL_DECODER, PRUNING, SETTING, TRAINING
from conditions import RESULTS
from tables import conditions_line, fraction, json_file, table

Values = dict[str, Any]
PICTURES = {
    "pixel_decoder": "claim_pixel_decoder.png",
    "calibration": "claim_calibration.png",
    "pruning": "claim_pruning.png",
    "training": "claim_training.png",
}


def claims_sections() -> list[str]:
    """One section for each result file that holds something."""
    makers: dict[str, Callable[[Values], str]] = {
        "pixel_decoder": _pixel_decoder,
        "calibration": _calibration,
        "pruning": _pruning,
        "training": _training,
    }
    stored = {claim: json_file(RESULTS / f"{claim}.json") for claim in makers}
    return [make(stored[claim]) for claim, make in makers.items() if stored[claim]]


def _picture(claim: str, text: str) -> str:
    return f"![{text}]({PICTURES[claim]})\n"


def with_spread(values: Values) -> str:
    """Mean and, in parentheses, spread over the seeds, per cent."""
    spread = "" if values["spread"] is None else f" ({100 * values['spread']:.1f})"
    return fraction(values["mean"]) + spread


def _error(values: Values) -> str:
    """The same for errors, as fractions."""
    if values["mean"] is None:
        return "-"
    return f"{values['mean']:.3f}" + (
        "" if values["spread"] is None else f" ({values['spread']:.3f})"
    )


def _facts(stored: Values) -> str:
    """How far the claim is run, in which setting, under which conditions."""
    runs, setting = stored["runs"], stored["setting"]
    line = SETTING.format(**setting, complete=runs["complete"], planned=runs["planned"])
    return line + "\n" + conditions_line(stored["conditions"])


def _pixel_decoder(stored: Values) -> str:
    variants = stored["variants"]
    sizes = list(next(iter(variants.values()))["gmac"])
    base = variants.get(stored["baseline"])
    rows = []
    for name, values in variants.items():
        costs = []
        for size in sizes:
            gmac = values["gmac"][size]["pixel_decoder"]
            share = gmac / base["gmac"][size]["pixel_decoder"] if base else None
            costs.append(f"{gmac:.2f}" + ("" if share is None else f" ({share:.2f})"))
        keys = ("mask_ap", "agnostic_mask_ap50", "mask_ap_small")
        figures = [with_spread(values[key]) for key in keys]
        rows.append([f"`{name}`", *costs, *figures, str(len(values["seeds"]))])
    header = ["pixel decoder", *(f"GMAC at {size}" for size in sizes)]
    header += ["mask AP", "agnostic AP50", "AP, small", "seeds"]
    parts = [
        "## Claim: a bottleneck in the pixel decoder\n",
        PIXEL_DECODER.format(baseline=stored["baseline"], names=stored["names"]),
        table(header, rows, right=range(1, len(header))),
    ]
    if stored["says_something"] is False:
        parts.append(
            f"The baseline stays under {100 * stored['least_ap50']:.0f} class-agnostic AP50: this"
            " setting says nothing.\n"
        )
    parts += [_within(stored), _picture("pixel_decoder", "AP against the pixel decoder's cost")]
    return "\n".join([*(part for part in parts if part), _facts(stored)])


def _within(stored: Values) -> str:
    """Which variants are within the baseline's spread, by figure."""
    judged: dict[bool, list[str]] = {True: [], False: []}
    for name, figures in stored["verdict"].items():
        known = [figure["holds"] for figure in figures.values() if figure["holds"] is not None]
        if known:
            judged[all(known)].append(f"`{name}`")
    lines = [
        f"Within the spread of the baseline's seeds, or better, in all three figures: {names}."
        if held
        else f"Below it in at least one, so that the claim does not hold at this scale: {names}."
        for held, found in judged.items()
        if (names := ", ".join(found))
    ]
    return " ".join(lines) + "\n" if lines else ""


def _calibration(stored: Values) -> str:
    middle, last = stored["middle_stage"], stored["last_stage"]
    rows = []
    for name, values in stored["variants"].items():
        cells = [f"`{name}`", with_spread(values["mask_ap"])]
        for stage in (middle, last):
            entry = values["stages"][stage]
            cells += [_error(entry[form]["laece0"]) for form in ("raw", "mapped")]
            cells.append(_error(entry["mapped"]["laece0_noise"]))
            cells += [_error(entry[form]["d_ece"]) for form in ("raw", "mapped")]
        cells.append(_error(values["stages"][middle]["rank_correlation"]))
        rows.append([*cells, str(len(values["seeds"]))])
    header = ["loss", "mask AP"]
    for stage in (middle, last):
        header += [f"LaECE_0, stage {stage}, raw", "isotonic", "noise"]
        header += [f"D-ECE, stage {stage}, raw", "isotonic"]
    header += ["rank correlation", "seeds"]
    parts = [
        "## Claim: confidences that tell the quality\n",
        CALIBRATION.format(middle=middle, last=last),
        table(header, rows, right=range(1, len(header))),
        _lower(stored),
        _picture("calibration", "LaECE_0 stage by stage, with isotonic maps"),
    ]
    return "\n".join([*(part for part in parts if part), _facts(stored)])


def _lower(stored: Values) -> str:
    """The verdict in words."""
    verdict = stored["verdict"]
    if not verdict.get("variants"):
        return ""
    lines = []
    for name, sides in verdict["variants"].items():
        words = []
        for label in ("middle", "last"):
            side = sides[label]
            word = "lower" if side["lower"] else "not lower"
            words.append(f"{label} {word} ({side['laece0']:.3f} against {side['baseline']:.3f}")
            spread = side["spread"]
            words[-1] += ")" if spread is None else f", spread over the seeds up to {spread:.3f})"
        lines.append(f"* `{name}`: {', '.join(words)}.")
    default = verdict["variants"].get(stored["default"])
    outcome = f"LaECE_0 against {verdict['against']}; lowest at both stages together: "
    outcome += f"`{verdict['best']}`."
    if default is not None:
        holds = "holds" if default["holds"] else "does not hold"
        sides = [default[label] for label in ("middle", "last")]
        gaps = [(side["baseline"] - side["laece0"], side["spread"] or 0.0) for side in sides]
        near = "" if all(gap > spread for gap, spread in gaps) else ", within the seeds' spread"
        outcome += f" For the default loss, `{stored['default']}`, the claim {holds}"
        outcome += f"{near if default['holds'] else ''}."
    return "\n".join([outcome, "", *lines, ""])


def _pruning(stored: Values) -> str:
    parts = ["## Claim: pruning the decoder\n", PRUNING]
    for model, values in stored.items():
        cells = values["cells"]
        if "full" not in cells:
            continue
        full = cells["full"]
        rows = []
        for cell, found in cells.items():
            share = found["decoder_gmac"] / full["decoder_gmac"]
            rows.append(
                [f"`{cell}`", f"{found['decoder_gmac']:.3f}", f"{share:.2f}"]
                + [fraction(found[key]) for key in ("mask_ap", "agnostic_mask_ap")]
                + [f"{found['layers']:.1f}"]
                + [" ".join(f"{100 * kept:.0f}" for kept in found["true_positives_kept"])]
            )
        header = ["policy", "decoder GMAC", "of full", "mask AP", "agnostic mask AP", "layers"]
        header += ["final true positives kept, stage by stage"]
        scenes = values["setting"]
        parts += [
            f"`{model}`, {scenes['val']} val scenes at {scenes['size']} pixels:\n",
            table(header, rows, right=range(1, 6)),
            _points(values.get("verdict", {})),
            conditions_line(values["conditions"]),
        ]
    parts.append(_picture("pruning", "AP against the decoder's cost"))
    return "\n".join(parts)


def _points(verdict: Values) -> str:
    """What the tuned points lose, and against whom."""
    lines = []
    for name, found in verdict.items():
        rivals = [
            f"{'better than' if rival['better'] else 'not better than'} `{key}`"
            f" ({fraction(rival['mask_ap'])} at {rival['decoder_gmac']:.3f} GMAC)"
            for key, rival in found["rivals"].items()
        ]
        lines.append(
            f"* `{name}`: {found['share']:.2f} of the full decoder, {found['loss']:.2f} points of"
            f" mask AP lost ({found['agnostic_loss']:.2f} class-agnostic); {', '.join(rivals)}."
        )
    return "\n".join([*lines, ""])


def _training(stored: Values) -> str:
    rows = [
        [f"`{name}`", str(values["steps"])]
        + [with_spread(values[key]) for key in ("mask_ap", "agnostic_mask_ap50")]
        + [str(len(values["seeds"]))]
        for name, values in stored["variants"].items()
    ]
    verdict = stored["verdict"]
    words = []
    for name, found in verdict.get("unified", {}).items():
        reached = "reaches" if found["reaches"] else "does not reach"
        words.append(
            f"* `{name}` ({found['share']:.2f} of the steps) {reached} it: {fraction(found['ap'])}."
        )
    if words:
        goal = f"`{verdict['staged']}` ends at {fraction(verdict['ap'])} mask AP."
        words = [goal, "", *words, ""]
    parts = [
        "## Claim: one stage, fewer iterations\n",
        TRAINING,
        table(["run", "steps", "mask AP", "agnostic AP50", "seeds"], rows, right=range(1, 5)),
        *(["\n".join(words)] if words else []),
        _picture("training", "AP against iterations"),
    ]
    return "\n".join([*parts, _facts(stored)])
