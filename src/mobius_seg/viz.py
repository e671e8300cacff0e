"""Instances drawn over their picture, with Pillow alone."""

import colorsys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from mobius_seg.errors import InputError
from mobius_seg.files import atomic_path

if TYPE_CHECKING:
    from mobius_seg.instances import Instances

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Color = tuple[int, int, int]

_MASK_OPACITY = 0.45
_MAX_LABEL = 40  # characters of a name that are drawn
_GOLDEN_RATIO = 0.618034
# Fonts with more scripts than Pillow's own, in the order of trying; used for other than Latin text.
_WIDE_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")


def draw_instances(image: NDArray[np.uint8], instances: "Instances") -> Image.Image:
    """Draw masks (half transparent, with contour), boxes, names and scores.

    Instance i always has the same colour. Large masks are drawn first, so that none is covered.

    Args:
        image: uint8 [H, W, 3].
        instances: of this picture.

    Returns:
        RGB picture of the same size.

    Raises:
        InputError: the picture is not of the instances' size.
    """
    height, width = instances.image_size
    if image.shape[:2] != (height, width):
        raise InputError(
            f"the image is {image.shape[1]} x {image.shape[0]} pixels, but the instances are of"
            f" one of {width} x {height}"
        )
    canvas = image.copy()
    line = max(1, round(max(height, width) / 400))
    order = np.argsort(-instances.areas, kind="stable")
    for i in order:
        _blend_mask(canvas, instances, int(i), line)
    drawing = Image.fromarray(canvas)
    draw = ImageDraw.Draw(drawing)
    size = int(np.clip(max(height, width) / 40, 11, 96))
    for i in order:
        x0, y0, x1, y1 = (float(v) for v in instances.boxes_xyxy[i])
        draw.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=color(i), width=line)
    for i in reversed(order):  # labels of large instances over those of small ones cover least
        _draw_label(draw, instances, int(i), size, drawing.size)
    return drawing


def color(index: int) -> Color:
    """Colour of instance ``index``: hues a golden angle apart, so that neighbours differ."""
    hue = (0.58 + index * _GOLDEN_RATIO) % 1.0
    value = (1.0, 0.8, 0.9)[index % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.95, 0.6)[index % 3], value)
    return round(red * 255), round(green * 255), round(blue * 255)


def save_image(image: Image.Image, path: str | Path) -> None:
    """Write a picture, whole or not at all; the suffix chooses the format.

    Raises:
        InputError: the path cannot be written, or its suffix names no format.
    """
    options: dict[str, Any] = {}
    if Path(path).suffix.lower() == ".png":
        options["compress_level"] = 3  # twice as fast as the default, a few per cent larger
    try:
        with atomic_path(path) as temporary:
            image.save(temporary, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be written: {reason}") from None


def _blend_mask(canvas: NDArray[np.uint8], instances: "Instances", index: int, line: int) -> None:
    """Tint one mask and draw its contour, in the mask's own window of the picture."""
    x, y, width, height = (int(v) for v in coco_mask.toBbox(instances.rles[index]))
    if width < 1 or height < 1:
        return
    window = np.s_[y : y + height, x : x + width]
    inside = np.ascontiguousarray(instances.mask(index)[window])
    border = inside & ~_erode(inside, line)
    for channel, paint in enumerate(color(index)):
        pixels = canvas[window][..., channel]
        tint = np.arange(256) * (1 - _MASK_OPACITY) + paint * _MASK_OPACITY
        np.copyto(pixels, tint.astype(np.uint8)[pixels], where=inside)
        np.copyto(pixels, np.uint8(paint), where=border)


def _erode(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels of a mask that are still in it ``width`` pixels to each of the four sides.

    Outside the window counts as outside the mask.
    """
    framed = np.pad(inside, width)
    shape = tuple(slice(width, width + side) for side in inside.shape)
    kept = inside.copy()
    for axis in (0, 1):
        for shift in (-width, width):
            window = list(shape)
            window[axis] = slice(width + shift, width + shift + inside.shape[axis])
            kept &= framed[tuple(window)]
    return kept


def _draw_label(
    draw: ImageDraw.ImageDraw, instances: "Instances", index: int, size: int, limit: tuple[int, int]
) -> None:
    """Name and score on a plate above the box, moved inside the picture."""
    text = f"{shorten(instances.names[index])} {instances.scores[index]:.2f}"
    font = _font(text, size)
    text, extent = _measure(draw, text, font)
    margin = max(1, size // 6)
    width, height = extent[2] - extent[0] + 2 * margin, extent[3] - extent[1] + 2 * margin
    x0, y0 = (float(v) for v in instances.boxes_xyxy[index][:2])
    x = max(0.0, min(x0, limit[0] - width))
    y = y0 - height if y0 >= height else y0
    y = max(0.0, min(y, limit[1] - height))
    paint = color(index)
    draw.rectangle((x, y, x + width, y + height), fill=paint)
    bright = 0.299 * paint[0] + 0.587 * paint[1] + 0.114 * paint[2] > 140
    ink = (0, 0, 0) if bright else (255, 255, 255)
    draw.text((x + margin - extent[0], y + margin - extent[1]), text, fill=ink, font=font)


def shorten(name: str, limit: int = _MAX_LABEL) -> str:
    """A name in one line of at most ``limit`` characters, control characters shown as spaces."""
    plain = "".join(c if c.isprintable() else " " for c in name[: limit + 1])
    return plain if len(name) <= limit else plain[: limit - 3] + "..."


def _measure(
    draw: ImageDraw.ImageDraw, text: str, font: Font
) -> tuple[str, tuple[float, float, float, float]]:
    """The text and its extent; what the font cannot draw at all becomes question marks."""
    try:
        return text, draw.textbbox((0, 0), text, font=font)
    except (UnicodeError, ValueError, OSError):
        plain = text.encode("ascii", "replace").decode("ascii")
        return plain, draw.textbbox((0, 0), plain, font=font)


def _font(text: str, size: int) -> Font:
    """Pillow's own font, or for other than Latin text one of the system's if there is one."""
    if not text.isascii():
        for name in _WIDE_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)
