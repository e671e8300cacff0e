"""Write every generated part of the documentation from stored measurements; ``--check`` compares.

* ``README.md``: the family table, between markers.
* ``docs/data.md``: attribution, between markers.
* ``docs/results.md`` and a ``docs/model_card_<model>.md`` for each of the released weights: whole
  pages.

Nothing is measured here: figures come from ``benchmarks/results/*.json``, from ``training.json``
beside the weights, from the presets and from the lists of sources in the package.
"""

import argparse
import sys
from pathlib import Path

import prose
from attribution import attribution
from claims_page import claims_sections
from claims_plots import draw_claims
from conditions import RESULTS, ROOT
from cost_page import cost_section
from mobius_seg.config import ModelConfig
from mobius_seg.files import write_text
from mobius_seg.presets import PRESETS, get_preset
from model_cards import MEASURED, WEIGHTS, model_card, released
from tables import conditions_line, generated, json_file, number, table

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
        **{ROOT / "docs" / f"model_card_{name}.md": model_card(name) for name in released()},
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
    for model in released():
        parts += [section(model) for section in (*MEASURED, _curve)]
    parts += [cost_section(), *claims_sections()]
    parts += [_speed(model) for model in released()]
    parts += [section() for section in (_vocabulary, _compose, _setup, _pictures)]
    return "\n".join(part for part in parts if part)


def _curve(model: str) -> str:
    picture = ROOT / "docs" / f"curve_{model}.png"
    if not picture.exists():
        return ""
    return f"## Learning curve\n\n![Learning curve of {model}]({picture.name})\n"


def _speed(model: str) -> str:
    stored = json_file(RESULTS / f"speed_{model}.json")
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
            f"## Time and cost of {model}\n",
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
    for model in released():  # galleries.py: those of the default model have no name in theirs
        for name in ("photo_sheet.jpg", "failures_sheet.jpg"):
            captions[name.replace(".jpg", f"_{model}.jpg")] = f"{captions[name]}: {model}"
    found = [
        f"![{text}]({name})\n\n{text}.\n"
        for name, text in captions.items()
        if (ROOT / "docs" / name).exists()
    ]
    return "\n".join(["## Pictures\n", prose.PICTURES, *found]) if found else ""


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    main()
