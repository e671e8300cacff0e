"""Model cards of the released weights."""

import json
from typing import Any

import prose
from bars_page import bars_section
from calibration_page import calibration_section
from conditions import ROOT
from errors_page import errors_section
from mobius_seg.presets import get_preset
from photos_page import photos_section
from points_page import points_section
from quality_page import quality_section
from tables import json_file, table
from wordings_page import wordings_section

WEIGHTS = ROOT / "src" / "mobius_seg" / "weights"
MEASURED = (
    bars_section,
    quality_section,
    errors_section,
    photos_section,
    wordings_section,
    calibration_section,
    points_section,
)
"""Sections that a model has once its figures are stored, each with a heading of its own."""


def released() -> list[str]:
    """Presets whose weights are in the package."""
    return sorted(file.parent.name for file in WEIGHTS.glob("*/model.safetensors"))


def model_card(model: str) -> str:
    """The model card of released weights."""
    training = json_file(WEIGHTS / model / "training.json")
    config = json_file(WEIGHTS / model / "config.json")
    preset = get_preset(model)
    parts = [
        f"# Model card: {model}\n",
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
    if files := training.get("annotations"):
        keys = ("annotations", "split", "pictures", "annotations_sha256")
        rows = [[_plain(file.get(key, "")) for key in keys] for file in files]
        parts.append("COCO files among it, whose pictures are made of these packages:\n")
        parts.append(table(["file", "split", "pictures", "sha256"], rows))
    sections = [text for section in MEASURED if (text := section(model))]
    if sections:
        parts += ["## Evaluation\n", *(f"#{text}" for text in sections)]
    parts += [
        "## Limits\n",
        prose.CARD_LIMITS.format(seen=_seen(training)),
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


def _seen(training: dict[str, Any]) -> str:
    """What kinds of pictures the last run was trained on."""
    rooms = sum(int(file.get("pictures", 0)) for file in training.get("annotations") or [])
    return f"{rooms:,} path-traced rooms and composed scenes" if rooms else "composed scenes only"


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
