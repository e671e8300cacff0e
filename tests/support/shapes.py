"""A pack of coloured shapes: learnable in seconds, drawn here."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mobius_seg.data.pack import CALIB, TRAIN, VAL, Cutout, PackMeta, write_pack

SHAPES = ("disc", "square", "triangle", "bar", "ring", "cross", "moon", "frame")
COLOURS = ("red", "green", "blue", "yellow")
_RGB = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220)}


def write_shapes_pack(path: Path, dim: int = 384) -> Path:
    """Write a pack of eight shapes (six base, two novel) in four colours and nine backgrounds."""
    cutouts = []
    for row, shape in enumerate(SHAPES):
        for c, colour in enumerate(COLOURS):
            split = (TRAIN, TRAIN, CALIB, VAL)[c] if row % 2 else TRAIN | CALIB | VAL
            picture = draw_shape(shape, _RGB.get(colour, (230, 200, 50)))
            cutouts.append(
                Cutout(data=_webp(picture), name=row, split=split, object=row * 4 + c, source=0)
            )
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((len(SHAPES), dim))
    grounds = [rng.integers(60, 200, (8, 8, 3)).astype(np.uint8) for _ in range(9)]
    big = [np.asarray(Image.fromarray(g).resize((160, 160))) for g in grounds]
    write_pack(
        path,
        meta=PackMeta(
            names=SHAPES,
            name_split=("base",) * 6 + ("novel",) * 2,
            object_colours=tuple(colour for _ in SHAPES for colour in COLOURS),
            sources=({"package": "drawn", "version": "1", "licence": "CC0-1.0", "sha256": "-"},),
            text_identity="test",
        ),
        name_embeddings_ND=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(
            np.float32
        ),
        cutouts=cutouts,
        backgrounds=[(_webp(b), (1, 1, 1, 2, 2, 2, 4, 4, 4)[i]) for i, b in enumerate(big)],
    )
    return path


def draw_shape(shape: str, rgb: tuple[int, int, int], side: int = 96) -> np.ndarray:
    """RGBA picture [side, side, 4] of one shape."""
    image = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(image)
    full, fill, clear = (0, 0, side - 1, side - 1), (*rgb, 255), (0, 0, 0, 0)
    third = side // 3
    if shape in ("disc", "ring", "moon"):
        draw.ellipse(full, fill=fill)
    elif shape in ("square", "frame"):
        draw.rectangle(full, fill=fill)
    elif shape == "triangle":
        draw.polygon([(0, side - 1), (side - 1, side - 1), (side // 2, 0)], fill=fill)
    elif shape == "bar":
        draw.rectangle((0, third, side - 1, 2 * third), fill=fill)
    else:
        draw.rectangle((0, third, side - 1, 2 * third), fill=fill)
        draw.rectangle((third, 0, 2 * third, side - 1), fill=fill)
    inner = (side // 4, side // 4, 3 * side // 4, 3 * side // 4)
    if shape == "ring":
        draw.ellipse(inner, fill=clear)
    elif shape == "frame":
        draw.rectangle(inner, fill=clear)
    elif shape == "moon":
        draw.ellipse((third, -third // 2, side + third, side - third // 2), fill=clear)
    return np.asarray(image)


def _webp(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "WEBP", lossless=True)
    return stream.getvalue()
