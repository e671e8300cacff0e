"""Reading what the object packages hold: furniture models, and drawings by code point.

Furniture comes as ``.sh3f`` archives (zips) with one ``PluginFurnitureCatalog.properties`` each.
Emoji come as one WebP file a drawing, named by code points, or as SVG bodies in one JSON file with
a table from code points to bodies.
"""

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mobius_seg.errors import InputError
from mobius_seg.files import atomic_path

_ENTRY = re.compile(r"(\w+)#(\d+)\s*=\s*(.*)")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class FurnitureModel:
    """One textured model of a furniture catalogue.

    Attributes:
        key: unique file-system-safe name, "catalogue-number".
        name: the catalogue's English name, not cleaned.
        category: the catalogue's category.
        path: the OBJ file.
        size_cm: width (x), height (y), depth (z) that the model is scaled to.
        rotation: row-major 3x3 matrix applied to the model first.
        author: who made it.
        licence: SPDX identifier.
        elevation_cm: how high above the floor it hangs; 0 where it stands.
        drop_cm: height above its own base at which other things stand on it; None where nothing
            does.
    """

    key: str
    name: str
    category: str
    path: Path
    size_cm: tuple[float, float, float]
    rotation: tuple[float, ...]
    author: str
    licence: str
    elevation_cm: float = 0.0
    drop_cm: float | None = None


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One flat picture of an object.

    Attributes:
        code_points: what the drawing stands for, variation selectors left out.
        path: WebP file, or None when ``svg`` is given.
        svg: the whole SVG document, or None when ``path`` is given.
    """

    code_points: tuple[int, ...]
    path: Path | None = None
    svg: str | None = None


def read_furniture(folder: Path) -> list[FurnitureModel]:
    """List the models of every catalogue below ``folder``, unpacking archives not yet unpacked.

    Args:
        folder: an unpacked package, searched for ``.sh3f`` files; each is extracted whole beside
            itself, since models refer to textures in sibling folders.

    Raises:
        InputError: no archive was found, or one is broken.
    """
    archives = sorted(folder.rglob("*.sh3f"))
    if not archives:
        raise InputError(f"{folder}: no furniture catalogue (*.sh3f) found")
    models: list[FurnitureModel] = []
    for archive in archives:
        models += _read_catalogue(_extract(archive), archive.stem)
    return models


def read_webp_drawings(folder: Path) -> list[Drawing]:
    """List WebP drawings named by their code points ("1f436.webp"), each code point once."""
    drawings: dict[tuple[int, ...], Drawing] = {}
    for path in sorted(folder.glob("*.webp")):
        code_points = parse_code_points(path.stem)
        drawings.setdefault(code_points, Drawing(code_points=code_points, path=path))
    return list(drawings.values())


def read_svg_drawings(folder: Path) -> list[Drawing]:
    """List the SVG drawings of an icon set: ``icons.json`` (bodies) and ``chars.json`` (names)."""
    icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    table = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
    drawings: dict[tuple[int, ...], Drawing] = {}
    for text, icon in sorted(table.items()):
        entry = icons["icons"].get(icon)
        if entry is None:
            continue
        width = entry.get("width", icons.get("width", 16))
        height = entry.get("height", icons.get("height", 16))
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}">{entry["body"]}</svg>'
        )
        code_points = parse_code_points(text)
        drawings.setdefault(code_points, Drawing(code_points=code_points, svg=svg))
    return list(drawings.values())


def parse_code_points(text: str) -> tuple[int, ...]:
    """Parse "1f43b-200d-2744-fe0f" into code points, variation selectors left out."""
    values = (int(part, 16) for part in text.split("-"))
    return tuple(value for value in values if value != 0xFE0F)


def _extract(archive: Path) -> Path:
    """Extract a catalogue beside itself, once; a half-extracted folder is never taken for done."""
    folder = archive.with_suffix("")
    done = folder / ".complete"
    if done.exists():
        return folder
    try:
        with zipfile.ZipFile(archive) as stream:
            stream.extractall(folder)  # zipfile keeps members inside the folder
    except zipfile.BadZipFile as error:
        raise InputError(f"{archive}: broken furniture catalogue ({error})") from None
    with atomic_path(done) as temporary:
        temporary.write_text("")
    return folder


def _read_catalogue(folder: Path, catalogue: str) -> list[FurnitureModel]:
    path = folder / "PluginFurnitureCatalog.properties"
    entries: dict[int, dict[str, str]] = {}
    for line in path.read_text(encoding="latin-1").splitlines():
        match = _ENTRY.fullmatch(line.strip())
        if match:
            value = _ESCAPE.sub(lambda hit: chr(int(hit[1], 16)), match[3])
            entries.setdefault(int(match[2]), {})[match[1]] = value.strip()
    models = []
    for number, entry in sorted(entries.items()):
        rotation = entry.get("modelRotation")
        drop = float(entry.get("dropOnTopElevation", entry["height"]))
        models.append(
            FurnitureModel(
                key=f"{catalogue.lower()}-{number:03d}",
                name=entry["name"],
                category=entry["category"],
                path=folder / entry["model"].lstrip("/"),
                size_cm=(float(entry["width"]), float(entry["height"]), float(entry["depth"])),
                rotation=tuple(map(float, rotation.split())) if rotation else _IDENTITY,
                author=entry.get("creator", catalogue),
                licence="CC0-1.0" if "cc-0" in catalogue.lower() else "CC-BY-3.0",
                elevation_cm=float(entry.get("elevation", 0)),
                drop_cm=drop if drop >= 0 else None,
            )
        )
    return models
