"""The objects of all packages, with cleaned names: what is drawn or rendered into a pack."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from mobius_seg.data.assets import Source
from mobius_seg.data.catalogue import (
    Drawing,
    FurnitureModel,
    read_furniture,
    read_svg_drawings,
    read_webp_drawings,
)
from mobius_seg.data.emoji_names import emoji_name
from mobius_seg.data.names import COLOURS, furniture_name
from mobius_seg.data.render import crop, encode, read_views
from mobius_seg.errors import InputError
from mobius_seg.files import atomic_path

MIN_SHARE = 0.5  # of an object's pixels that must have one colour to call the object by it
_SVG_SIDE = 256


@dataclass(frozen=True, kw_only=True)
class ObjectEntry:
    """One drawing or model with its cleaned name.

    Attributes:
        name: cleaned name.
        colour: colour word in the source's own name, or None.
        source: the package.
        key: unique within its package.
        model: the model to render, or None for a drawing.
        drawing: the drawing, or None for a model.
    """

    name: str
    colour: str | None
    source: Source
    key: str
    model: FurnitureModel | None = None
    drawing: Drawing | None = None


def list_objects(assets_dir: str | Path, sources: Sequence[Source]) -> list[ObjectEntry]:
    """List every object that the cleaning rules keep, in a fixed order.

    Args:
        assets_dir: folder of :func:`mobius_seg.data.assets.fetch`.
        sources: the packages; those without objects are passed over.

    Raises:
        InputError: a package is not unpacked there.
    """
    entries: list[ObjectEntry] = []
    for source in sources:
        if source.role != "object":
            continue
        folder = source.unpacked(assets_dir) / source.part
        if not folder.is_dir():
            raise InputError(f"{folder}: not found; run `mobius-seg assets fetch` first")
        if source.kind == "furniture":
            entries += _models(folder, source)
        else:
            read = read_webp_drawings if source.kind == "webp" else read_svg_drawings
            entries += _drawings(read(folder), source)
    return entries


def draw_all(
    entries: Sequence[ObjectEntry], folder: Path, max_side: int
) -> dict[tuple[str, str], list[bytes]]:
    """Encoded pictures of every object that has some, from the kept renders and drawings.

    Args:
        entries: objects; models must have been rendered into ``folder``.
        folder: where renders are kept; finished drawings are kept there too, a zip a package.
        max_side: longest side of a drawing, pixels.

    Returns:
        (package, key) to WebP files: one for a drawing, the views of a model.
    """
    pictures: dict[tuple[str, str], list[bytes]] = {}
    by_source: dict[str, list[ObjectEntry]] = {}
    for entry in entries:
        if entry.model is not None:
            views = read_views(folder, entry.key)
            if views:
                pictures[entry.source.package, entry.key] = views
        else:
            by_source.setdefault(entry.source.package, []).append(entry)
    for package, drawings in by_source.items():
        for key, data in _draw_source(drawings, folder, max_side).items():
            pictures[package, key] = [data]
    return pictures


def dominant_colour(picture: NDArray[np.uint8]) -> str | None:
    """The colour word that at least ``MIN_SHARE`` of the object's pixels fall under, or None.

    Args:
        picture: RGBA uint8 [h, w, 4]; pixels at least half opaque count.
    """
    hsv = np.asarray(Image.fromarray(picture[..., :3]).convert("HSV"), np.float32)
    solid = hsv[picture[..., 3] > 127] / np.float32(255)
    if not len(solid):
        return None
    hue, saturation, value = solid[:, 0] * 360, solid[:, 1], solid[:, 2]
    # Limits chosen by eye on this release's drawings and renders. What a person would call by two
    # words (off-white, near-black) is called by none.
    word = np.full(len(hue), "red", "<U6")
    for low, high, colour in (
        (15, 42, "orange"),
        (42, 68, "yellow"),
        (68, 165, "green"),
        (165, 258, "blue"),
        (258, 300, "purple"),
        (300, 344, "pink"),
    ):
        word[(hue >= low) & (hue < high)] = colour
    word[(hue >= 8) & (hue < 45) & (value < 0.68)] = "brown"
    word[((hue >= 335) | (hue < 15)) & (saturation < 0.5) & (value > 0.8)] = "pink"
    word[(hue >= 15) & (hue < 68) & (saturation < 0.35)] = ""  # skin, cream, beige
    pale = saturation < 0.16
    word[pale] = ""
    word[pale & (value > 0.85)] = "white"
    word[pale & (value > 0.3) & (value < 0.62)] = "grey"
    word[value < 0.3] = ""
    word[(value < 0.2) | (pale & (value < 0.24))] = "black"
    word[(value < 0.2) & (saturation > 0.6) & (value > 0.1)] = ""  # dark blue is not black
    shares = {colour: float((word == colour).mean()) for colour in COLOURS}
    best = max(shares, key=lambda colour: shares[colour])
    return best if shares[best] >= MIN_SHARE else None


def _models(folder: Path, source: Source) -> list[ObjectEntry]:
    entries = []
    for model in read_furniture(folder):
        clean = furniture_name(model.name, model.category)
        if clean is not None:
            entries.append(
                ObjectEntry(
                    name=clean.name,
                    colour=clean.colour,
                    source=source,
                    key=model.key,
                    model=model,
                )
            )
    return entries


def _drawings(drawings: Sequence[Drawing], source: Source) -> list[ObjectEntry]:
    entries = []
    for drawing in drawings:
        clean = emoji_name(drawing.code_points)
        if clean is not None:
            entries.append(
                ObjectEntry(
                    name=clean.name,
                    colour=clean.colour,
                    source=source,
                    key="-".join(f"{code_point:x}" for code_point in drawing.code_points),
                    drawing=drawing,
                )
            )
    return entries


def _draw_source(entries: Sequence[ObjectEntry], folder: Path, max_side: int) -> dict[str, bytes]:
    """Cut-outs of one package's drawings, read from its zip when that holds them all."""
    source = entries[0].source
    path = folder / f"{source.folder}-{max_side}.zip"
    wanted = {entry.key for entry in entries}
    if path.exists():
        with zipfile.ZipFile(path) as stream:
            if wanted <= set(stream.namelist()) and stream.comment == source.sha256.encode():
                return {key: data for key in sorted(wanted) if (data := stream.read(key))}
    drawn = {}
    for entry in tqdm(entries, f"draw {source.folder}"):
        assert entry.drawing is not None
        picture = _rasterise(entry.drawing)
        cut = crop(picture, max_side)
        drawn[entry.key] = b"" if cut is None else encode(cut)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as stream:
        for key, data in drawn.items():
            stream.writestr(key, data)  # an empty file remembers a drawing that shows nothing
        stream.comment = source.sha256.encode()
    return {key: data for key, data in drawn.items() if data}


def _rasterise(drawing: Drawing) -> NDArray[np.float32]:
    """RGBA float32 in 0..1, colour premultiplied by alpha."""
    if drawing.path is not None:
        opened: str | Path | io.BytesIO = drawing.path
    else:
        # imported here: only packing needs it
        import resvg_py

        png = resvg_py.svg_to_bytes(
            svg_string=drawing.svg, width=_SVG_SIDE, height=_SVG_SIDE, skip_system_fonts=True
        )
        opened = io.BytesIO(bytes(png))
    with Image.open(opened) as image:
        rgba = np.asarray(image.convert("RGBA"), np.float32) / 255.0
    premultiplied: NDArray[np.float32] = rgba * np.where(np.arange(4) < 3, rgba[..., 3:], 1)
    return premultiplied
