"""How a pasted object and a finished scene look: light, colour, shadows, blur, noise, JPEG.

Pictures are uint8. A patch is RGBA with the colour premultiplied by alpha, so that resampling and
mixing leave no halo. Nothing here moves an edge, so masks stay exact. Legend: h, w patch size; H, W
scene size.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_NOISE_SIDE = 1024
_LEAST_DEVIATION = 8.0  # of 255: the noise of a smooth texture is not blown up


def premultiply(rgba_hw4: Picture) -> Picture:
    """Multiply colour by alpha.

    Args:
        rgba_hw4: uint8 [h, w, 4].

    Returns:
        uint8 [h, w, 4].
    """
    alpha = rgba_hw4[..., 3]
    weight = cv2.merge([alpha, alpha, alpha, np.full_like(alpha, 255)])
    return np.asarray(cv2.multiply(rgba_hw4, weight, scale=1 / 255), np.uint8)


def recolour(rng: np.random.Generator, patch_hw4: Picture, strength: float = 1.0) -> Picture:
    """Change brightness, contrast, saturation and tint of a premultiplied patch a little.

    All four are linear in (r, g, b, alpha), so one 4 x 4 matrix does them.

    Args:
        rng: source of the change.
        patch_hw4: premultiplied uint8 [h, w, 4].
        strength: 0 leaves the patch, 1 is the usual range.

    Returns:
        Premultiplied uint8 [h, w, 4]; alpha unchanged.
    """
    contrast = np.exp(rng.normal(0, 0.15 * strength))
    saturation = np.exp(rng.normal(0, 0.2 * strength))
    gain = np.exp(rng.normal(0, 0.2 * strength) + rng.normal(0, 0.05 * strength, 3))
    mix = saturation * np.eye(3) + (1 - saturation) * _LUMA[None, :]
    matrix = np.zeros((4, 4), np.float32)
    matrix[:3, :3] = contrast * gain[:, None] * mix
    matrix[:3, 3] = 128 / 255 * (1 - contrast) * gain
    matrix[3, 3] = 1
    changed = cv2.transform(patch_hw4, matrix)
    alpha = patch_hw4[..., 3]
    return np.asarray(cv2.min(changed, cv2.merge([alpha] * 4)), np.uint8)


def shade(rng: np.random.Generator, patch_hw4: Picture) -> Picture:
    """Light the patch from one side: a linear ramp over brightness, alpha unchanged."""
    height, width = patch_hw4.shape[:2]
    angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.45)
    x = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(np.cos(angle))
    y = np.linspace(-1, 1, height, dtype=np.float32) * np.float32(np.sin(angle))
    half = np.float32(255 * depth / 2)
    ramp = np.minimum(255 - half + half * (y[:, None] + x[None, :]), 255).astype(np.uint8)
    weight = cv2.merge([ramp, ramp, ramp, np.full_like(ramp, 255)])
    return np.asarray(cv2.multiply(patch_hw4, weight, scale=1 / 255), np.uint8)


def weave(rng: np.random.Generator, patch_hw4: Picture, texture_hw3: Picture) -> Picture:
    """Give a premultiplied patch the relief of a texture; its mean colour and alpha stay.

    Renders and drawings are smooth inside, photographed things are not: a mask that follows the
    texture of a photograph covers a part of the thing only.

    Args:
        rng: source of the strength.
        patch_hw4: premultiplied uint8 [h, w, 4].
        texture_hw3: RGB uint8 [h, w, 3].

    Returns:
        Premultiplied uint8 [h, w, 4].
    """
    mean, deviation = cv2.meanStdDev(texture_hw3)
    strength = rng.uniform(0.1, 0.45) / (float(deviation.mean()) + _LEAST_DEVIATION)
    gain = 1 + strength * (texture_hw3.astype(np.float32) - mean.ravel().astype(np.float32))
    alpha = patch_hw4[..., 3]
    colour = patch_hw4[..., :3] * np.clip(gain, 0, 2)
    colour = np.minimum(colour, alpha[..., None]).astype(np.uint8)
    return np.dstack([colour, alpha])


@dataclass(frozen=True, kw_only=True)
class Light:
    """Where the light of a scene comes from; every shadow of the scene follows it.

    Attributes:
        cast: strength of cast shadows in 0..1, 0 for none.
        contact: strength of the dark spot under an object, 0 for none.
        dx: shift of cast shadows to the right, in object lengths.
        dy: shift of cast shadows downwards, in object lengths.
        blur: softness of shadows, in object lengths.
    """

    cast: float
    contact: float
    dx: float
    dy: float
    blur: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Light":
        """Draw a light: about six scenes in ten have shadows."""
        dx, dy, blur = rng.uniform(-0.12, 0.12), rng.uniform(0.0, 0.1), rng.uniform(0.01, 0.08)
        style = rng.random()
        cast = rng.uniform(0.15, 0.6) if style < 0.4 else 0.0
        contact = rng.uniform(0.15, 0.6) if 0.25 < style < 0.6 else 0.0
        return cls(cast=cast, contact=contact, dx=dx, dy=dy, blur=blur)


def cast_shadow(canvas_HW3: Picture, alpha_hw: Picture, x: int, y: int, light: Light) -> None:
    """Darken the canvas, in place, where a patch at (x, y) throws its shadow.

    Args:
        canvas_HW3: the scene so far.
        alpha_hw: alpha of the patch.
        x: left edge of the patch on the canvas, may be negative.
        y: top edge.
        light: the scene's light.
    """
    height, width = alpha_hw.shape
    length = max(height, width)
    small = max(1, length // 24)  # shadows are soft: a few dozen pixels hold them
    if light.cast > 0:
        _darken(
            canvas_HW3,
            alpha_hw,
            (x + round(light.dx * length), y + round(light.dy * length)),
            (width, height),
            light.cast,
            light.blur * length,
            small,
        )
    if light.contact > 0:
        flat = max(2, height // 9)
        _darken(
            canvas_HW3,
            alpha_hw[height // 2 :],
            (x, y + height - flat // 2 - 1),
            (width, flat),
            light.contact,
            0.05 * length,
            small,
        )


def _darken(
    canvas_HW3: Picture,
    alpha_hw: Picture,
    corner: tuple[int, int],
    size: tuple[int, int],
    strength: float,
    sigma: float,
    small: int,
) -> None:
    """Multiply the canvas by 1 - strength * blurred alpha stretched to ``size`` at ``corner``."""
    margin = int(np.ceil(2.5 * sigma / small)) + 1
    low = (max(1, size[0] // small), max(1, size[1] // small))
    spot = cv2.resize(alpha_hw, low, interpolation=cv2.INTER_AREA)
    spot = cv2.copyMakeBorder(spot, margin, margin, margin, margin, cv2.BORDER_CONSTANT)
    if sigma / small > 0.3:
        spot = cv2.GaussianBlur(spot, (0, 0), sigma / small)
    full = (spot.shape[1] * small, spot.shape[0] * small)
    spot = cv2.resize(spot, full, interpolation=cv2.INTER_LINEAR)
    left, top = corner[0] - margin * small, corner[1] - margin * small
    region = overlap(canvas_HW3.shape[:2], spot.shape[:2], left, top)
    if region is None:
        return
    on_canvas, on_patch = region
    keep = cv2.LUT(spot[on_patch], (255 - strength * np.arange(256)).astype(np.uint8))
    canvas_HW3[on_canvas] = cv2.multiply(
        canvas_HW3[on_canvas], cv2.merge([keep] * 3), scale=1 / 255
    )


Region = tuple[slice, slice]


def overlap(
    canvas: tuple[int, ...], patch: tuple[int, ...], x: int, y: int
) -> tuple[Region, Region] | None:
    """Where a patch at (x, y) and the canvas meet.

    Args:
        canvas: (H, W).
        patch: (h, w).
        x: left edge of the patch on the canvas.
        y: top edge.

    Returns:
        (rows, columns) on the canvas and on the patch, None when they do not meet.
    """
    top, bottom = max(y, 0), min(y + patch[0], canvas[0])
    left, right = max(x, 0), min(x + patch[1], canvas[1])
    if top >= bottom or left >= right:
        return None
    return (
        (slice(top, bottom), slice(left, right)),
        (slice(top - y, bottom - y), slice(left - x, right - x)),
    )


def mix_in(canvas_HW3: Picture, patch_hw4: Picture, region: tuple[Region, Region]) -> None:
    """Lay a premultiplied patch over the canvas in place: ``canvas * (1 - alpha) + colour``."""
    on_canvas, on_patch = region
    patch = patch_hw4[on_patch]
    keep = cv2.bitwise_not(np.ascontiguousarray(patch[..., 3]))
    under = cv2.multiply(canvas_HW3[on_canvas], cv2.merge([keep] * 3), scale=1 / 255)
    canvas_HW3[on_canvas] = cv2.add(under, np.ascontiguousarray(patch[..., :3]))


def finish(rng: np.random.Generator, image_HW3: Picture) -> Picture:
    """What a camera adds to the whole scene: light, blur, noise and JPEG, each only sometimes.

    Args:
        rng: source of every choice.
        image_HW3: RGB uint8 [H, W, 3].

    Returns:
        RGB uint8 [H, W, 3].
    """
    if rng.random() < 0.5:
        image_HW3 = _tone(rng, image_HW3)
    if rng.random() < 0.3:
        image_HW3 = np.asarray(cv2.GaussianBlur(image_HW3, (0, 0), rng.uniform(0.3, 1.1)), np.uint8)
    if rng.random() < 0.08:
        image_HW3 = _shake(rng, image_HW3)
    if rng.random() < 0.4:
        image_HW3 = _add_noise(rng, image_HW3)
    if rng.random() < 0.35:
        quality = int(rng.integers(35, 96))
        _, data = cv2.imencode(".jpg", image_HW3, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image_HW3 = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return image_HW3


def _tone(rng: np.random.Generator, image_HW3: Picture) -> Picture:
    """Exposure, gamma and white balance as one table per channel."""
    gamma = np.exp(rng.normal(0, 0.18))
    gain = np.exp(rng.normal(0, 0.1) + rng.normal(0, 0.05, 3))
    levels = np.linspace(0, 1, 256)[:, None] ** gamma * gain * 255
    return np.asarray(cv2.LUT(image_HW3, np.clip(levels, 0, 255).astype(np.uint8)[None]), np.uint8)


def _shake(rng: np.random.Generator, image_HW3: Picture) -> Picture:
    """Motion blur over three pixels along one axis, so that edges stay where they are."""
    size = (3, 1) if rng.random() < 0.5 else (1, 3)
    return np.asarray(cv2.blur(image_HW3, size), np.uint8)


def _add_noise(rng: np.random.Generator, image_HW3: Picture) -> Picture:
    """Gaussian noise: a random window of a fixed field, as drawing it anew would cost 2 ms."""
    height, width = image_HW3.shape[:2]
    top = int(rng.integers(max(1, _NOISE_SIDE - height)))
    left = int(rng.integers(max(1, _NOISE_SIDE - width)))
    field = _noise_field()[top : top + height, left : left + width]
    if field.shape[:2] != (height, width):
        field = np.resize(field, image_HW3.shape)
    if rng.random() < 0.4:
        field = np.asarray(cv2.merge([np.ascontiguousarray(field[..., 0])] * 3), np.int16)
    scaled = cv2.addWeighted(image_HW3, 1.0, field, rng.uniform(0.02, 0.12), 0, dtype=cv2.CV_16S)
    return np.clip(scaled, 0, 255).astype(np.uint8)


_fields: list[NDArray[np.int16]] = []


def _noise_field() -> NDArray[np.int16]:
    """Fixed Gaussian field of standard deviation 100, made once per process."""
    if not _fields:
        drawn = np.random.default_rng(0).normal(0, 100, (_NOISE_SIDE, _NOISE_SIDE, 3))
        _fields.append(drawn.astype(np.int16))
    return _fields[0]
