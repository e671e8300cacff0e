"""Any picture a user may hand over, as RGB bytes.

:func:`load_image` takes a path, encoded bytes, a PIL image, a numpy array or a torch tensor and
returns uint8 [H, W, 3]. What cannot be used raises :class:`InputError` with one line.

* EXIF orientation is applied: H and W are those that a viewer shows.
* Transparency is composited on white.
* Of an animation the first frame counts.
* More than eight bits: whole numbers are scaled by the smallest depth of 8, 10, 12, 14 or 16 bits
  that holds the largest value (a 12-bit scan in a 16-bit file comes out bright); floating-point
  files within 0..1 by 255, others so that their finite range fills 0..255.
* Colour profiles are not applied. Nothing is fetched from a network.
"""

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mobius_seg.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

ImageInput: TypeAlias = "str | Path | bytes | Image.Image | NDArray[Any] | Tensor"

# Twice Pillow's MAX_IMAGE_PIXELS, the size from which Pillow too refuses to open a file.
MAX_PIXELS = 178_956_970

# Raster formats. Left out: formats that start another program (EPS) or that only describe pixels.
FORMATS = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "ICO",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PCX",
    "PNG",
    "PPM",
    "QOI",
    "SGI",
    "TGA",
    "TIFF",
    "WEBP",
)

# What Pillow's decoders raise on damaged files, by reading them and by trying damaged files.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
)
_DEPTHS = (8, 10, 12, 14, 16)


def load_image(source: ImageInput, where: str | None = None) -> NDArray[np.uint8]:
    """Read a picture.

    Args:
        source: a path; encoded bytes (PNG, JPEG...); a PIL image; a numpy array [H, W], [H, W, 1],
            [H, W, 3] or [H, W, 4] of bool, uint8, uint16, or floating point in 0..1; a torch tensor
            of the same kinds, also [1, H, W], [3, H, W] or [4, H, W]. Colours are RGB.
        where: name of the picture in error messages; the path by default.

    Returns:
        uint8 [H, W, 3], RGB, contiguous, H and W at least 1.

    Raises:
        InputError: the picture cannot be used; the message says why.
    """
    if isinstance(source, str | Path):
        return _from_path(source, where)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_file(io.BytesIO(source), where or "image bytes")
    if isinstance(source, Image.Image):
        return _from_pil(source, where or "PIL image")
    if isinstance(source, np.ndarray):
        return _from_array(source, where or "numpy image")
    if "torch" in sys.modules and isinstance(source, sys.modules["torch"].Tensor):
        return _from_tensor(source, where or "tensor image")
    raise InputError(
        f"{where or 'image'}: got {type(source).__name__}; allowed: a path, encoded bytes,"
        " a PIL image, a numpy array or a torch tensor"
    )


def image_suffixes() -> frozenset[str]:
    """File name endings (lower case, with the dot) of the formats that can be read."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind in FORMATS)


def _from_path(source: str | Path, where: str | None) -> NDArray[np.uint8]:
    """Read a file."""
    name = where or str(source)
    if "://" in str(source):
        raise InputError(f"{name}: addresses are not fetched; download the picture first")
    path = Path(source)
    try:
        if path.is_dir():
            raise InputError(f"{name}: is a folder, not an image")
        if path.is_fifo() or path.is_socket():
            raise InputError(f"{name}: is a pipe or socket, not an image file")
        with path.open("rb") as file:
            return _from_file(file, name)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{name}: cannot be read: {reason}") from None


def _from_file(file: Any, name: str) -> NDArray[np.uint8]:
    """Read an open file."""
    head = file.read(32)
    if not head:
        raise InputError(f"{name}: the file is empty")
    _check_header(head, name)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            # Pillow warns at half the size that we allow, and about odd metadata.
            warnings.simplefilter("ignore")
            image = Image.open(file, formats=_known_formats())
    except UnidentifiedImageError:
        kind = (
            "a TIFF of a kind" if head[:4] in (b"II*\0", b"MM\0*") else "not an image, or of a kind"
        )
        raise InputError(f"{name}: {kind} that cannot be read") from None
    except Image.DecompressionBombError:
        raise InputError(_bomb(name)) from None
    except _DECODER_ERRORS as error:
        raise InputError(f"{name}: damaged image: {_reason(error)}") from None
    with image:
        return _from_pil(image, name)


def _check_header(head: bytes, name: str) -> None:
    """Tell a picture of no width or height from what is no picture; Pillow calls both unknown."""
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) >= 24:
        width, height = struct.unpack(">II", head[16:24])
    elif head.startswith((b"GIF87a", b"GIF89a")) and len(head) >= 10:
        width, height = struct.unpack("<HH", head[6:10])
    elif head.startswith(b"BM") and len(head) >= 26:
        width, height = (abs(side) for side in struct.unpack("<ii", head[18:26]))
    else:
        return
    _check_size(height, width, name)


def _from_pil(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Decode, turn upright, convert to RGB."""
    _check_size(image.height, image.width, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if getattr(image, "is_animated", False) and image.tell() != 0:
                image.seek(0)
            image.load()
            return _to_rgb(_upright(image), name)
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(_bomb(name)) from None
    except _DECODER_ERRORS as error:
        raise InputError(f"{name}: truncated or damaged image: {_reason(error)}") from None


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; unreadable EXIF counts as none."""
    try:
        return ImageOps.exif_transpose(image)
    except _DECODER_ERRORS:
        return image


def _to_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Convert any of Pillow's modes."""
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode == "F":
        return _grey_to_rgb(_scale_float(np.asarray(image, np.float32)))
    if image.mode.startswith("I"):
        return _grey_to_rgb(_scale_integers(np.asarray(image).astype(np.int64)))
    if image.mode in ("LA", "PA", "RGBa", "RGBA") or image.has_transparency_data:
        return _composite(np.asarray(image.convert("RGBA")))
    return np.ascontiguousarray(np.asarray(image.convert("RGB"), np.uint8))


def _from_array(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Check and convert an array with the channels last."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"{name}: shape is {list(array.shape)}; allowed: [H, W], [H, W, 3] or 1 or 4 channels"
        )
    _check_size(array.shape[0], array.shape[1], name)
    values = _array_to_bytes(array, name)
    if values.ndim == 3 and values.shape[2] == 4:
        return _composite(values)
    if values.ndim == 3 and values.shape[2] == 3:
        return np.ascontiguousarray(values)
    return _grey_to_rgb(values.reshape(array.shape[:2]))


def _array_to_bytes(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Bring bool, uint8, uint16 and floats to uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return _scale_integers(array.astype(np.int64))
    if array.dtype.kind != "f":
        raise InputError(
            f"{name}: values are {array.dtype}; allowed: bool, uint8, uint16, floats in 0..1"
        )
    low, high = float(array.min()), float(array.max())  # NaN in, NaN out
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # room for rounding of a resize or of bfloat16
        raise InputError(
            f"{name}: float values span {low:.6g} to {high:.6g}; allowed: 0 to 1"
            " (convert 0..255 to uint8)"
        )
    return _unit_to_bytes(array)


def _from_tensor(tensor: Any, name: str) -> NDArray[np.uint8]:
    """Check and convert a tensor; channels first wins where both readings are possible."""
    import torch

    shape = tuple(tensor.shape)
    if tensor.ndim == 3 and shape[0] in (1, 3, 4):
        tensor = tensor.permute(1, 2, 0)
    elif tensor.ndim not in (2, 3) or (tensor.ndim == 3 and shape[2] not in (1, 3, 4)):
        raise InputError(f"{name}: shape is {list(shape)}; allowed: [3, H, W], [H, W, 3], [H, W]")
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    try:
        array = tensor.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantised, meta
        raise InputError(f"{name}: {_reason(error)}") from None
    return _from_array(array, name)


def _check_size(height: int, width: int, name: str) -> None:
    """Refuse pictures without pixels, and too many."""
    if height < 1 or width < 1:
        raise InputError(f"{name}: the image is {width} x {height} pixels; it has no pixels")
    if height * width > MAX_PIXELS:
        raise InputError(_bomb(name, f"{width} x {height} pixels"))


def _bomb(name: str, size: str = "its size") -> str:
    """The message for a picture that is too large."""
    return f"{name}: {size} is more than the {MAX_PIXELS} pixels allowed (decompression bomb?)"


def _composite(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put RGBA [H, W, 4] on white."""
    image = Image.fromarray(np.ascontiguousarray(rgba))
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return np.asarray(white, np.uint8)


def _grey_to_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat [H, W] three times."""
    return np.repeat(grey[:, :, None], 3, axis=2)


def _scale_integers(values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Whole numbers of unknown depth to bytes (see the module's text)."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 2 ** _DEPTHS[-1]:
        return _scale_float(values.astype(np.float64), within_unit=False)
    top = next(2**depth - 1 for depth in _DEPTHS if high < 2**depth)
    return np.asarray((values * 255 + top // 2) // top, np.uint8)


def _scale_float(values: NDArray[Any], within_unit: bool = True) -> NDArray[np.uint8]:
    """Floats to bytes by their finite range; what is not finite becomes black or white."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return np.zeros(values.shape, np.uint8)
    low, high = float(finite.min()), float(finite.max())
    if within_unit and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    span = high - low
    if span <= 0:
        return np.full(values.shape, 128, np.uint8)
    filled = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    return _unit_to_bytes((filled - low) / span)


def _unit_to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """0..1 to 0..255, rounded."""
    return np.asarray(np.rint(values.clip(0, 1) * 255.0), np.uint8)


def _known_formats() -> list[str]:
    """The formats of ``FORMATS`` that this build of Pillow can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _reason(error: BaseException) -> str:
    """An exception's text in one line."""
    lines = str(error).split("\n")
    return lines[0] or type(error).__name__
