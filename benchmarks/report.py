"""Write every generated part of the documentation from stored measurements; ``--check`` compares.

* ``README.md``: the family table, between markers.
* ``docs/data.md``: attribution, between markers.
* ``docs/results.md`` and ``docs/model_card_mobius-n.md``: whole pages.

Nothing is measured here: figures come from ``benchmarks/results/*.json``, from ``training.json``
beside the weights, from the presets and from the lists of sources in the package.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import prose
from attribution import attribution
from calibration_page import calibration_section
from claims_page import claims_sections
from claims_plots import draw_claims
from conditions import RESULTS, ROOT
from cost_page import cost_section
from errors_page import errors_section
from mobius_seg.config import ModelConfig
from mobius_seg.files import write_text
from mobius_seg.presets import PRESETS, get_preset
from photos_page import photos_section
from tables import conditions_line, fraction, generated, json_file, number, table
from wordings_page import wordings_section

WEIGHTS = ROOT / "src" / "mobius_seg" / "weights"
MODEL = "mobius-n"
PURPOSE = {
    "mobius-test": "unit tests",
    "mobius-p": "phone in real time, browser",
    "mobius-n": "phone, small CPU",
    "mobius-s": "phone, CPU",
    "mobius-m": "edge accelerator",
    "mobius-l": "accelerator",
    "mobius-h": "accelerator, most accurate",
    "glee-lite": "baseline of mobius-m",
    "glee-plus": "baseline of mobius-l",
    "glee-pro": "baseline of mobius-h",
}
# Bars of the plan that the weights were trained against: CPU alone, with an accelerator.
BARS = {
    ("val-base", "agnostic_mask_ap50"): (0.60, 0.80),
    ("val-novel", "agnostic_mask_ap50"): (0.55, 0.75),
    ("val-base", "mask_ap50"): (0.40, 0.65),
    ("val-novel", "mask_ap50"): (0.12, 0.25),
}


def main() -> None:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if stale")
    check = parser.parse_args().check
    if not check:
        draw_claims()
    stale = [path for path, text in pages().items() if _read(path) != text]
    for path in stale:
        print(("stale: " if check else "wrote ") + path.relative_to(ROOT).as_posix())
        if not check:
            write_text(path, pages()[path])
    sys.exit(1 if check and stale else 0)


def pages() -> dict[Path, str]:
    """Every generated page with the text that it should have."""
    readme, data = ROOT / "README.md", ROOT / "docs" / "data.md"
    return {
        readme: generated(_read(readme), "family", family()),
        data: generated(_read(data), "attribution", attribution()),
        ROOT / "docs" / "results.md": results(),
        ROOT / "docs" / f"model_card_{MODEL}.md": model_card(),
    }


def family() -> str:
    """The family table of the README."""
    rows = []
    for name in PRESETS:
        config = get_preset(name)
        weights = WEIGHTS / name / "model.safetensors"
        shipped = f"shipped, {weights.stat().st_size / 1e6:.1f} MB" if weights.exists() else "-"
        if weights.exists():
            own = ModelConfig.from_json((weights.parent / "config.json").read_text()).input_size
            shipped += f", run at {own}"
        rows.append(
            [
                f"`{name}`",
                PURPOSE[name],
                config.backbone,
                str(config.input_size),
                f"{config.expected_params / 1e6:.1f} M",
                f"{config.expected_gmac:.1f}"
                if config.expected_gmac >= 1
                else f"{config.expected_gmac:.3f}",
                shipped,
            ]
        )
    header = ["preset", "for", "backbone (timm)", "input", "parameters", "GMAC", "weights"]
    note = (
        "GMAC: 10^9 multiply-accumulates for one square image at the input size with 80 names (260"
        " text tokens\nfor the baselines, which fuse sub-words)."
    )
    return table(header, rows, right=(3, 4, 5)) + f"\n{note}\n"


def results() -> str:
    """The page of measured figures."""
    parts = [prose.RESULTS]
    for section in (
        _quality,
        errors_section,
        photos_section,
        wordings_section,
        calibration_section,
        _curve,
        cost_section,
        _speed,
        _vocabulary,
        _compose,
        _setup,
        _pictures,
    ):
        text = section()
        if text:
            parts.append(text)
        if section is cost_section:
            parts += claims_sections()
    return "\n".join(parts)


def _quality() -> str:
    stored = json_file(RESULTS / f"quality_{MODEL}.json")
    if not stored:
        return ""
    rows = []
    for split, modes in stored["splits"].items():
        names, spoken = modes["names"], modes["expressions"]
        rows.append(
            [split, str(names["images"]), str(names["names"])]
            + [fraction(names[key]) for key in ("mask_ap", "mask_ap50", "box_ap", "box_ap50")]
            + [fraction(names[f"agnostic_{key}"]) for key in ("mask_ap", "mask_ap50", "ar100")]
            + [fraction(spoken[key]) for key in ("p_at_50", "ciou")]
        )
    header = ["composed split", "scenes", "names", "mask AP", "mask AP50", "box AP", "box AP50"]
    header += ["agnostic mask AP", "agnostic AP50", "agnostic AR@100", "P@0.5", "cIoU"]
    by_size = [
        [split, *(fraction(modes["names"].get(f"mask_ap_{size}")) for size in _SIZES)]
        for split, modes in stored["splits"].items()
    ]
    bars = [
        [split, key, fraction(value), fraction(low), fraction(high)]
        for (split, key), (low, high) in BARS.items()
        if (value := stored["splits"].get(split, {}).get("names", {}).get(key)) is not None
    ]
    return "\n".join(
        [
            f"## Accuracy of {MODEL} on composed scenes\n",
            prose.QUALITY,
            table(header, rows, right=range(1, 12)),
            "Named mask AP by the area of the object (up to 32x32, up to 96x96, beyond):\n",
            table(["composed split", *_SIZES], by_size, right=range(1, 4)),
            "Against the bars that were set beforehand:\n",
            table(
                ["composed split", "figure", "measured", "bar, CPU training", "bar, accelerator"],
                bars,
                right=(2, 3, 4),
            ),
            conditions_line(stored["conditions"]),
        ]
    )


_SIZES = ("small", "medium", "large")


def _curve() -> str:
    picture = ROOT / "docs" / f"curve_{MODEL}.png"
    if not picture.exists():
        return ""
    return f"## Learning curve\n\n![Learning curve of {MODEL}]({picture.name})\n"


def _speed() -> str:
    stored = json_file(RESULTS / f"speed_{MODEL}.json")
    if not stored:
        return ""
    rows, parts = [], []
    for size, values in stored["sizes"].items():
        whole, network = values["predict_ms"], values["network_ms"]
        span = f"{number(whole['p10'])} to {number(whole['p90'])}"
        rows.append([f"{size}x{size}", number(whole["median"]), span, number(network["median"])])
        parts.append([f"{size}x{size}", *(f"{v:.3f}" for v in values["gmac"].values())])
    labels = list(next(iter(stored["sizes"].values()))["gmac"])
    return "\n".join(
        [
            f"## Time and cost of {MODEL}\n",
            prose.SPEED.format(runs=stored["runs"]),
            table(["input", "predict", "10 % to 90 %", "network alone"], rows, right=(1, 2, 3)),
            "GMAC by part:\n",
            table(["input", *labels], parts, right=range(1, len(labels) + 1)),
            conditions_line(stored["conditions"]),
        ]
    )


def _vocabulary() -> str:
    stored = json_file(RESULTS / "vocabulary.json")
    if not stored:
        return ""
    rows = []
    for values in stored["rows"]:
        names = f"{values['names']:,}"
        large = values["names"] > stored["limits"]["many"]
        note = "yes" if values["left_out"] else "no, for comparison" if large else "no"
        times = [number(values["predict_ms"]), f"{values['time_ratio']:.2f}"]
        memory = [f"{values['peak_mb']:.0f}", f"{values['more_mb']:+.0f}"]
        rows.append([names, note, *times, *memory])
    height, width = stored["size"]
    header = ["names", "unsupported ones leave", "ms", "through 80 names"]
    header += ["peak MB", "beside 80 names"]
    return "\n".join(
        [
            "## Size of the vocabulary\n",
            prose.VOCABULARY.format(
                model=stored["model"],
                size=f"{height}x{width}",
                blocks=stored["blocks"],
                runs=stored["runs"],
                **stored["bars"],
            ),
            table(header, rows, right=(0, 2, 3, 4, 5)),
            conditions_line(stored["conditions"]),
        ]
    )


def _compose() -> str:
    stored = json_file(RESULTS / "compose.json")
    if not stored:
        return ""
    rows = [
        [label, *(str(v[key]) for key in ("median_ms", "mean_ms", "scenes_per_second", "needed"))]
        for label, v in stored["compose"].items()
    ]
    header = ["prompt", "ms, median", "ms, mean", "scenes a second", "processes for 800 a second"]
    return "\n".join(
        [
            "## Composing scenes\n",
            "One process, 256x256, cut-outs already decoded.\n",
            table(header, rows, right=(1, 2, 3, 4)),
            conditions_line(stored["conditions"]),
        ]
    )


def _setup() -> str:
    stored, light = json_file(RESULTS / "setup.json"), json_file(RESULTS / "import.json")
    if not stored and not light:
        return ""
    rows = []
    labels = {
        "demo": "fresh clone to first overlays (`make demo`)",
        "demo_again": "`make demo` once installed",
        "install_dev": "installing what tests and training need",
        "tests_fast": "`make test`, fast part",
        "tests_slow": "`make test`, slow part",
    }
    for key, label in labels.items():
        if key in stored.get("setup", {}):
            run = stored["setup"][key]
            rows.append(
                [label, number(run["seconds"]), str(run["exit_code"]), run.get("summary", "")]
            )
    if light:
        seconds = light["import"]["import_seconds_min"]
        rows.append(["`import mobius_seg`, least of several", f"{seconds:.3f}", "0", ""])
    facts = (stored or light)["conditions"]
    return "\n".join(
        [
            "## Setting up\n",
            table(["step", "seconds", "exit code", "outcome"], rows, right=(1, 2)),
            conditions_line(facts),
        ]
    )


def _pictures() -> str:
    captions = {
        "demo.jpg": "The two photographs of `make demo`",
        "val_sheet.jpg": "Twelve composed val scenes: truth left, prediction right in each pair",
        "photo_sheet.jpg": "Photographs of the dev half, 52 names asked, best six from 0.02 on",
        "failures_sheet.jpg": "Of 100 val-base scenes the six where most objects are lost",
    }
    found = [
        f"![{text}]({name})\n\n{text}.\n"
        for name, text in captions.items()
        if (ROOT / "docs" / name).exists()
    ]
    return "\n".join(["## Pictures\n", prose.PICTURES, *found]) if found else ""


def model_card() -> str:
    """The model card of the released weights."""
    training = json_file(WEIGHTS / MODEL / "training.json")
    config = json_file(WEIGHTS / MODEL / "config.json")
    preset = get_preset(MODEL)
    parts = [
        f"# Model card: {MODEL}\n",
        "Written by `python benchmarks/report.py`.\n",
        "## Model\n",
        prose.CARD_MODEL.format(
            params=preset.expected_params / 1e6,
            gmac=preset.expected_gmac,
            size=preset.input_size,
            own=(config or {}).get("input_size", preset.input_size),
            last=training["settings"]["sizes"][-1][1],
        ),
        "## Intended use\n",
        prose.CARD_USE,
        "## Training\n",
    ]
    facts = [[key, _plain(value)] for key, value in training.items() if _is_plain(value)]
    facts += [[key, _plain(value)] for key, value in training.get("versions", {}).items()]
    if facts:
        parts.append(table(["what", "value"], facts))
    parts += _earlier_runs(training)
    settings = training.get("settings")
    if isinstance(settings, dict):
        rows = [[key, _plain(value)] for key, value in settings.items() if value is not None]
        parts.append("Settings:\n\n" + table(["setting", "value"], rows))
    if training.get("assets"):
        keys = ("package", "registry", "version", "licence", "sha256")
        rows = [[str(asset.get(key, "")) for key in keys] for asset in training["assets"]]
        rows = [list(row) for row in dict.fromkeys(tuple(row) for row in rows)]
        parts.append("Everything that the weights were trained on, from package registries:\n")
        parts.append(table(list(keys), rows))
    measured = _quality()
    parts += ["## Evaluation\n", measured.partition("\n")[2].lstrip("\n")] if measured else []
    parts += [
        "## Limits\n",
        prose.CARD_LIMITS,
    ]
    if config:
        parts += ["## Configuration\n", "```json\n" + json.dumps(config, indent=2) + "\n```\n"]
    return "\n".join(parts)


def _earlier_runs(training: dict[str, Any]) -> list[str]:
    """What came before the last run, the earliest first, and the totals."""
    runs = [training]
    while isinstance(runs[0].get("previous"), dict):
        runs.insert(0, runs[0]["previous"])
    if len(runs) == 1:
        return []
    keys = ("steps", "images", "hours", "seed", "start")
    rows = [[str(i), *(_plain(run.get(key, "")) for key in keys)] for i, run in enumerate(runs, 1)]
    sums = [round(sum(run.get(key, 0) for run in runs), 3) for key in keys[:3]]
    rows.append(["all", *(_plain(value) for value in sums), "", ""])
    notes = training.get("notes") or []
    listed = "\n".join(f"* {note}" for note in ([notes] if isinstance(notes, str) else notes))
    text = "The weights come from several runs, each started from the one before:\n"
    return [text, table(["run", *keys], rows), listed + "\n", "The last of them:\n"]


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    main()
