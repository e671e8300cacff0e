"""What lies behind the objects: chosen photographs and textures, and drawn surfaces.

``background_list.json`` names every picture that may be used, part by part, with its licence and
author: only CC0, CC-BY and similar files, only parts that show no object of the vocabulary, each in
one split, and none of the demonstration pictures. Parts of one picture share its split.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobius_seg.data.textures import draw_texture
from mobius_seg.errors import InputError

Picture = NDArray[np.uint8]

SPLIT_BITS = {"train": 1, "calib": 2, "val": 4}
DRAWN_SHARE = 0.3
"""Share of surfaces drawn by code; the rest are pictures. Few pictures can be had, so variety
comes from here too."""


@dataclass(frozen=True, kw_only=True)
class Background:
    """One background picture for the pack.

    Attributes:
        data: WebP file, RGB.
        split: 1 train, 2 calib, 4 val.
        kind: "photograph" or "texture".
        package: package that it comes from.
        file: path inside the package (``archive!member`` where the picture is in a zip archive).
        licence: licence of this file.
        author: whom to credit.
    """

    data: bytes
    split: int
    kind: str
    package: str
    file: str
    licence: str
    author: str


def collect_backgrounds(
    assets_dir: str | Path, *, max_side: int = 512, quality: int = 85
) -> list[Background]:
    """Read the listed backgrounds from the fetched packages.

    Args:
        assets_dir: folder that ``mobius-seg assets fetch`` filled (``unpacked/<package>/...``).
        max_side: longest side of the stored pictures in pixels.
        quality: WebP quality.

    Returns:
        One entry per listed part, in the order of the list.

    Raises:
        InputError: a listed file is missing or its digest differs.
    """
    text = resources.files("mobius_seg.data").joinpath("background_list.json").read_text("utf-8")
    found: list[Background] = []
    for entry in json.loads(text)["pictures"]:
        root = Path(assets_dir) / "unpacked" / entry["package"]
        data = _read(root, entry["file"])
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise InputError(
                f"{root / entry['file']}: not the file that was chosen (digest differs)"
            )
        with Image.open(io.BytesIO(data)) as image:
            picture = image.convert("RGB")
        for part in entry["parts"]:
            found.append(
                Background(
                    data=_encode(picture, part, max_side, quality),
                    split=SPLIT_BITS[entry["split"]],
                    **{key: entry[key] for key in ("kind", "package", "file", "licence", "author")},
                )
            )
    return found


def _read(root: Path, file: str) -> bytes:
    """Bytes of a file, or of a member of a zip archive (``archive!member``)."""
    archive, _, member = file.partition("!")
    try:
        if not member:
            return (root / archive).read_bytes()
        with zipfile.ZipFile(root / archive) as opened:
            return opened.read(member)
    except (OSError, KeyError, zipfile.BadZipFile):
        raise InputError(
            f"{root / file}: background not found; run `mobius-seg assets fetch`"
        ) from None


def _encode(picture: Image.Image, part: list[float], max_side: int, quality: int) -> bytes:
    """Cut a part (x0, y0, x1, y1 in 0..1) out, shrink it and encode it."""
    width, height = picture.size
    x0, y0, x1, y1 = part
    box = (round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height))
    cropped = picture.crop(box)
    cropped.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    cropped.save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()


class BackgroundSource(Protocol):
    """What gives background pictures (see :class:`mobius_seg.data.pack.Pack`)."""

    def background(self, index: int) -> Picture:
        """RGB picture of a background."""


class Backdrops:
    """Makes backgrounds: pictures cropped, mirrored and recoloured, or surfaces drawn by code.

    Args:
        source: the pack.
        indices: its backgrounds that may be used; empty means drawn surfaces alone.
        drawn_share: probability of a drawn surface.
    """

    def __init__(
        self,
        source: BackgroundSource,
        indices: NDArray[np.int64],
        drawn_share: float = DRAWN_SHARE,
    ) -> None:
        """See the class."""
        self._source = source
        self._indices = indices
        self._drawn_share = drawn_share if len(indices) else 1.0

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Picture:
        """Make one background.

        One in four is a floor or table under a wall: two surfaces that meet at a horizon.

        Args:
            rng: source of every choice.
            height: pixels.
            width: pixels.

        Returns:
            RGB uint8 [H, W, 3], writeable, shared with nobody.
        """
        picture = self.surface(rng, height, width)
        if rng.random() < 0.25:
            horizon = int(height * rng.uniform(0.35, 0.8))
            floor = self.surface(rng, height, width)
            if rng.random() < 0.6:
                floor = _lay_flat(rng, floor)
            picture[horizon:] = floor[horizon:]
            if rng.random() < 0.5:  # the shade where floor and wall meet
                depth = max(2, int(height * rng.uniform(0.01, 0.06)))
                ramp = np.abs(np.arange(-depth, depth) + 0.5) / depth * 0.4 + 0.6
                band = slice(max(0, horizon - depth), min(height, horizon + depth))
                rows = ramp[: band.stop - band.start, None, None]
                picture[band] = (picture[band] * rows).astype(np.uint8)
        return picture

    def surface(self, rng: np.random.Generator, height: int, width: int) -> Picture:
        """One surface: part of a picture, or drawn; as :meth:`draw`, which may join two."""
        if rng.random() < self._drawn_share:
            return draw_texture(rng, height, width)
        index = int(self._indices[int(rng.integers(len(self._indices)))])
        picture = _window(rng, self._source.background(index), height, width)
        return _recolour(rng, picture)


def _window(rng: np.random.Generator, picture: Picture, height: int, width: int) -> Picture:
    """A random part of a picture, mirrored and turned by quarters at times, at the wanted size."""
    scale = min(picture.shape[0] / height, picture.shape[1] / width)
    scale *= float(np.exp(rng.uniform(np.log(0.3), 0)))
    crop = (max(8, int(height * scale)), max(8, int(width * scale)))
    top = int(rng.integers(max(1, picture.shape[0] - crop[0] + 1)))
    left = int(rng.integers(max(1, picture.shape[1] - crop[1] + 1)))
    part = picture[top : top + crop[0], left : left + crop[1]]
    method = cv2.INTER_AREA if scale > 2 else cv2.INTER_LINEAR
    resized = cv2.resize(part, (width, height), interpolation=method)
    if rng.random() < 0.5:
        resized = cv2.flip(resized, 1)
    if height == width and rng.random() < 0.2:
        resized = cv2.rotate(resized, int(rng.integers(3)))
    return np.asarray(resized, np.uint8)


def _recolour(rng: np.random.Generator, picture: Picture) -> Picture:
    """Light and colour: a gain per channel, contrast, and at times turned or faded colours."""
    gain = np.exp(rng.normal(0, 0.25) + rng.normal(0, 0.1, 3))
    contrast = np.exp(rng.normal(0, 0.2))
    mix = np.eye(3)
    if rng.random() < 0.12:  # another material of the same structure
        mix = np.roll(mix, int(rng.integers(1, 3)), axis=0)
    saturation = rng.uniform(0.0, 1.4)
    mix = saturation * mix + (1 - saturation) / 3
    matrix = np.empty((3, 4), np.float32)
    matrix[:, :3] = contrast * gain[:, None] * mix
    matrix[:, 3] = 128 * (1 - contrast) * gain
    changed = cv2.transform(picture, matrix)
    if rng.random() < 0.3:  # out of focus
        radius = int(rng.integers(1, 2 + picture.shape[0] // 32))
        changed = cv2.stackBlur(changed, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(changed, np.uint8)


def _lay_flat(rng: np.random.Generator, picture: Picture) -> Picture:
    """See a surface at a slant: its far edge is narrower than its near one."""
    height, width = picture.shape[:2]
    squeeze = rng.uniform(0.1, 0.4) * width
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    spread = np.array(
        [
            [-squeeze, 0],
            [width + squeeze, 0],
            [width + 3 * squeeze, height],
            [-3 * squeeze, height],
        ],
        np.float32,
    )
    matrix = cv2.getPerspectiveTransform(corners, spread)
    return np.asarray(
        cv2.warpPerspective(picture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT),
        np.uint8,
    )
