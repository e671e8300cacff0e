"""Backgrounds drawn by code: seeded noise, cloth, wood, tiles, skies and gradients.

Few photographs can be had from packages, so a share of the scenes stands on a drawn surface. Each
kind computes one scalar field in 0..255 and colours it through a random palette, which costs well
under a millisecond at 256 x 256. None shows an object. Legend: H height, W width.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Field = NDArray[np.float32]


def draw_texture(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Draw one background of a random kind.

    Args:
        rng: source of every choice.
        height: pixels.
        width: pixels.

    Returns:
        RGB uint8 [H, W, 3].
    """
    kind = _KINDS[int(rng.integers(len(_KINDS)))]
    field_HW = kind(rng, height, width)
    index_HW = np.clip(field_HW, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(cv2.merge([index_HW] * 3), _palette(rng)), np.uint8)


def _palette(rng: np.random.Generator) -> Picture:
    """A colour for each of the 256 levels, [1, 256, 3]: two to four related or free colours."""
    stops = int(rng.integers(2, 5))
    if rng.random() < 0.6:  # shades of one colour, as most real surfaces have
        base = rng.uniform(20, 235, 3)
        spread = rng.uniform(8, 60)
        shade = rng.normal(0, spread, (stops, 1)) + rng.normal(0, spread / 4, (stops, 3))
        colours = np.clip(base + shade, 0, 255)
    else:
        colours = rng.uniform(0, 255, (stops, 3))
    at = np.linspace(0, 255, stops)
    levels = np.arange(256)
    table = np.stack([np.interp(levels, at, colours[:, c]) for c in range(3)], axis=-1)
    return table.astype(np.uint8)[None]


def _noise(rng: np.random.Generator, height: int, width: int, cells: int, octaves: int) -> Field:
    """Smooth noise in 0..1: random grids of growing fineness, enlarged and summed."""
    total = np.zeros((height, width), np.float32)
    weight, weights = 1.0, 0.0
    for _ in range(octaves):
        grid = rng.random((cells, max(1, cells * width // height)), dtype=np.float32)
        method = cv2.INTER_CUBIC if cells < 32 else cv2.INTER_LINEAR
        total += np.float32(weight) * cv2.resize(grid, (width, height), interpolation=method)
        weights += weight
        weight *= float(rng.uniform(0.35, 0.6))
        cells = min(cells * 2, height)
    return np.asarray(total / np.float32(weights), np.float32)


def _axes(rng: np.random.Generator, height: int, width: int) -> tuple[Field, Field]:
    """Two orthogonal coordinates, turned by a random angle, in units of the image height."""
    angle = float(rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)]))
    y = (np.arange(height, dtype=np.float32) / height)[:, None]
    x = (np.arange(width, dtype=np.float32) / height)[None, :]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return np.asarray(x * cos + y * sin, np.float32), np.asarray(y * cos - x * sin, np.float32)


def _clouds(rng: np.random.Generator, height: int, width: int) -> Field:
    field = _noise(rng, height, width, int(rng.integers(2, 9)), int(rng.integers(2, 6)))
    return _stretch(field)


def _grain(rng: np.random.Generator, height: int, width: int) -> Field:
    """Plaster, sand or gravel: noise that starts fine."""
    field = _noise(rng, height, width, int(rng.integers(24, 96)), 2)
    return 128 + (_stretch(field) - 128) * np.float32(rng.uniform(0.2, 1.0))


def _gradient(rng: np.random.Generator, height: int, width: int) -> Field:
    u, v = _axes(rng, height, width)
    if rng.random() < 0.4:
        centre_u, centre_v = rng.uniform(0, 1, 2).astype(np.float32)
        return _stretch(np.hypot(u - centre_u, v - centre_v))
    return _stretch(u + np.zeros_like(v))


def _sky(rng: np.random.Generator, height: int, width: int) -> Field:
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    clouds = _noise(rng, height, width, int(rng.integers(2, 5)), 4)
    return _stretch(y + clouds * np.float32(rng.uniform(0.2, 1.2)))


def _stripes(rng: np.random.Generator, height: int, width: int) -> Field:
    u, _ = _axes(rng, height, width)
    wave = np.sin(u * np.float32(2 * np.pi * rng.uniform(2, 40)) + np.float32(rng.uniform(0, 6)))
    if rng.random() < 0.5:
        wave = np.clip(wave * np.float32(6), -1, 1)
    return _roughen(rng, 128 + 127 * wave + np.zeros((height, width), np.float32))


def _checker(rng: np.random.Generator, height: int, width: int) -> Field:
    """Tiles: every cell has its own shade, with or without joints."""
    u, v = _axes(rng, height, width)
    cells = np.float32(rng.uniform(3, 24))
    row, column = v * cells + np.float32(64), u * cells * np.float32(rng.uniform(0.4, 1)) + 64
    if rng.random() < 0.5:  # brick bond
        column = column + np.float32(0.5) * (np.floor(row) % 2)
    shade = rng.uniform(40, 215, (128, 128)).astype(np.float32)
    if rng.random() < 0.5:
        shade = 128 + (shade - 128) * np.float32(0.25)
    field = shade[row.astype(np.int32) % 128, column.astype(np.int32) % 128]
    if rng.random() < 0.6:
        joint = np.maximum(abs(row % 1 - 0.5), abs(column % 1 - 0.5)) > 0.5 - 0.06
        field = np.where(joint, np.float32(rng.choice([0, 255])), field)
    return _roughen(rng, field)


def _wood(rng: np.random.Generator, height: int, width: int) -> Field:
    u, v = _axes(rng, height, width)
    bend = _noise(rng, height, width, 3, 2) * np.float32(rng.uniform(0.1, 0.6))
    rings = np.sin((u + bend) * np.float32(2 * np.pi * rng.uniform(5, 30)))
    fibres = cv2.resize(
        rng.random((1, 256), dtype=np.float32), (256, 1), interpolation=cv2.INTER_LINEAR
    )[0]
    fine = fibres[((u + bend * 0.3) * 200 + 512).astype(np.int32) % 256]
    return np.asarray(128 + 70 * rings + 50 * (fine - 0.5) + 0 * v, np.float32)


def _cloth(rng: np.random.Generator, height: int, width: int) -> Field:
    """Woven threads, or a plaid when the second frequency is low."""
    u, v = _axes(rng, height, width)
    count = rng.uniform(30, 90) if rng.random() < 0.6 else rng.uniform(4, 12)
    turn = np.float32(2 * np.pi * count)
    field = 128 + 60 * np.sin(u * turn) + 60 * np.sin(v * turn * np.float32(rng.uniform(0.5, 1)))
    folds = _noise(rng, height, width, int(rng.integers(2, 5)), 2)
    return np.asarray(field + (folds - 0.5) * np.float32(rng.uniform(0, 200)), np.float32)


def _blotches(rng: np.random.Generator, height: int, width: int) -> Field:
    """Camouflage, marble or lichen: noise cut into a few levels."""
    field = _noise(rng, height, width, int(rng.integers(4, 20)), int(rng.integers(2, 5)))
    steps = np.float32(rng.integers(2, 7))
    return _roughen(rng, np.floor(_stretch(field) / 256 * steps) * (255 / steps))


def _plain(rng: np.random.Generator, height: int, width: int) -> Field:
    return _roughen(rng, np.full((height, width), 128, np.float32))


def _roughen(rng: np.random.Generator, field: Field) -> Field:
    """Add faint unevenness, so that no drawn surface is perfectly flat."""
    height, width = field.shape
    rough = _noise(rng, height, width, int(rng.integers(3, 32)), 2) - np.float32(0.5)
    return np.asarray(field + rough * np.float32(rng.uniform(5, 60)), np.float32)


def _stretch(field: Field) -> Field:
    """Scale to 0..255."""
    low, high = float(field.min()), float(field.max())
    return np.asarray((field - low) * np.float32(255 / max(high - low, 1e-6)), np.float32)


_KINDS: tuple[Callable[[np.random.Generator, int, int], Field], ...] = (
    _clouds,
    _grain,
    _gradient,
    _sky,
    _stripes,
    _checker,
    _wood,
    _cloth,
    _blotches,
    _plain,
)
