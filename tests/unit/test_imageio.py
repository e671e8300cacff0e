"""Every kind of picture comes out as the right RGB bytes, or is refused in one line."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mobius_seg.errors import InputError
from mobius_seg.imageio import MAX_PIXELS, image_suffixes, load_image

RED, GREEN = (255, 0, 0), (0, 255, 0)


def _encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _halves() -> Image.Image:
    """Left half red, right half green, 6 wide and 4 high."""
    image = Image.new("RGB", (6, 4), RED)
    image.paste(GREEN, (3, 0, 6, 4))
    return image


def _png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG that says what it likes about its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA"])
def test_formats(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"picture.{kind.lower()}"
    file.write_bytes(_encode(_halves(), kind, **({"lossless": True} if kind == "WEBP" else {})))
    for source in (file, str(file), file.read_bytes()):
        image = load_image(source)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        assert np.array_equal(image, np.asarray(_halves()))
    assert file.suffix in image_suffixes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load_image(_encode(_halves(), exif=exif))
    expected = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a[::-1].transpose(1, 0, 2),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a[:, ::-1].transpose(1, 0, 2),
    }[orientation](np.asarray(_halves()))
    assert np.array_equal(image, expected)


def test_broken_exif_is_no_error() -> None:
    data = _encode(_halves(), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert load_image(data).shape == (4, 6, 3)


def test_palette_and_its_transparency() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1])
    assert load_image(palette).tolist() == [[[255, 0, 0], [0, 255, 0]]]
    data = _encode(palette, transparency=1)
    assert load_image(data).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_one_bit_and_grey() -> None:
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    assert load_image(_encode(bits)).tolist() == [[[0] * 3, [255] * 3]]
    assert load_image(_encode(Image.new("L", (1, 1), 77))).tolist() == [[[77] * 3]]


def test_alpha_is_composited_on_white() -> None:
    image = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (200, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    rows = load_image(_encode(image))[0].tolist()
    assert rows[0] == [200, 0, 0]
    assert rows[1] == [255, 255, 255]
    assert abs(rows[2][0] - 127) <= 1
    assert load_image(_encode(Image.new("LA", (1, 1), (10, 0)))).tolist() == [[[255] * 3]]
    for mode, through in (("La", "LA"), ("RGBa", "RGBA"), ("PA", "P")):
        odd = image.convert(through).convert(mode)
        assert np.abs(load_image(odd).astype(int) - load_image(image.convert(through))).max() <= 2


def test_cmyk() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for data in (_encode(image, "TIFF"), _encode(image, "JPEG")):
        assert np.abs(load_image(data).astype(int) - np.array(RED)).max() <= 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 32768, 65535], [0, 128, 255]),
        ([0, 2048, 4095], [0, 128, 255]),  # 12 bits in a 16-bit file
        ([0, 100, 255], [0, 100, 255]),  # 8 bits in a 16-bit file
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit(kind: str, values: list[int], expected: list[int]) -> None:
    array = np.array([values], np.uint16)
    for source in (_encode(Image.fromarray(array), kind), array):
        assert load_image(source)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([np.nan, 100.0, 300.0], [0, 0, 255]),
        ([np.inf, -np.inf, 5.0], [128, 128, 128]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([3.0, 3.0, 3.0], [128, 128, 128]),
    ],
)
def test_float_tiff(values: list[float], expected: list[int]) -> None:
    data = _encode(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert load_image(data)[0, :, 0].tolist() == expected


def test_thirty_two_bit_integers() -> None:
    image = Image.fromarray(np.array([[-100, 0, 100]], np.int32))
    assert load_image(_encode(image, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (2, 2), color) for color in (RED, GREEN)]
    data = _encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(load_image(data).astype(int) - np.array(RED)).max() <= 2
    opened = Image.open(io.BytesIO(data))
    opened.seek(1)
    assert np.abs(load_image(opened).astype(int) - np.array(RED)).max() <= 2


def _arrays() -> list[tuple[str, NDArray[Any]]]:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    rgb = np.stack([grey, grey, grey], axis=-1)
    alpha = np.dstack([rgb, np.full((3, 4), 255, np.uint8)])
    return [
        ("grey", grey),
        ("one channel", grey[..., None]),
        ("rgb", rgb),
        ("rgba", alpha),
        ("float32", (rgb / 255).astype(np.float32)),
        ("float64", rgb / 255),
        ("flipped view", rgb[::-1].copy()[::-1]),
        ("fortran", np.asfortranarray(rgb)),
    ]


@pytest.mark.parametrize(("name", "array"), _arrays(), ids=lambda v: v if type(v) is str else "")
def test_arrays(name: str, array: NDArray[Any]) -> None:
    expected = np.arange(12).reshape(3, 4) * 20
    image = load_image(array)
    assert image.shape == (3, 4, 3)
    assert np.array_equal(image[..., 1], expected)


def test_bool_array() -> None:
    assert load_image(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.bfloat16])
def test_tensors(dtype: torch.dtype) -> None:
    values = torch.randint(0, 256, (3, 5, 7), generator=torch.Generator().manual_seed(0))
    tensor = values.to(dtype) if dtype == torch.uint8 else (values / 255).to(dtype)
    tolerance = 1 if dtype == torch.bfloat16 else 0
    for source in (tensor, tensor.permute(1, 2, 0), tensor.requires_grad_(dtype.is_floating_point)):
        difference = load_image(source).astype(int) - values.permute(1, 2, 0).numpy()
        assert np.abs(difference).max() <= tolerance
    assert load_image(tensor[:1]).shape == (5, 7, 3)
    assert load_image(tensor[0]).shape == (5, 7, 3)


BAD = {
    "none": (None, "allowed: a path"),
    "number": (3, "allowed: a path"),
    "address": ("https://example.org/cat.jpg", "not fetched"),
    "int64": (np.zeros((2, 2, 3), np.int64), "values are int64"),
    "strings": (np.array([["a"]]), "values are"),
    "two channels": (np.zeros((2, 2, 2), np.uint8), "shape is [2, 2, 2]"),
    "channels first": (np.zeros((3, 9, 9), np.uint8), "shape is [3, 9, 9]"),
    "one axis": (np.zeros(3, np.uint8), "shape is [3]"),
    "float 0..255": (np.full((2, 2, 3), 200.0), "allowed: 0 to 1"),
    "NaN": (np.full((2, 2, 3), np.nan), "allowed: 0 to 1"),
    "no rows": (np.zeros((0, 5, 3), np.uint8), "no pixels"),
    "no columns": (Image.new("RGB", (0, 5)), "no pixels"),
    "tensor shape": (torch.zeros(2, 3, 5, 5), "shape is [2, 3, 5, 5]"),
    "tensor kind": (torch.zeros(3, 4, 4, dtype=torch.int64), "values are int64"),
    "meta tensor": (torch.zeros(3, 4, 4, device="meta"), "tensor image"),
    "empty bytes": (b"", "the file is empty"),
    "text": (b"hello, world", "not an image"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", "not an image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "zero width": (_png(0, 5), "no pixels"),
    "zero height": (_png(5, 0), "no pixels"),
    "gif without size": (b"GIF89a" + bytes(20), "no pixels"),
    "bmp without size": (b"BM" + bytes(60), "no pixels"),
    "header alone": (_png(5, 5), "truncated or damaged"),
    "bomb": (_png(60_000, 60_000), "bomb"),
    "billion pixels": (_png(2**31 - 1, 2**31 - 1), "bomb"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    source, words = BAD[name]
    with pytest.raises(InputError) as caught:
        load_image(source)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    for name, words in (("missing.png", "no such file"), ("", "is a folder")):
        with pytest.raises(InputError, match=words) as caught:
            load_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        load_image("a\0b.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000"])
def test_damaged_files_never_raise_anything_else(kind: str) -> None:
    """Cut and flipped at many places: an InputError, or a picture of the right size or another."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (33, 47, 3), dtype=np.uint8))
    data = _encode(noise, kind)
    damaged = [data[: int(len(data) * share)] for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9)]
    for _ in range(30):
        spoilt = bytearray(data)
        for place in rng.integers(0, len(data), 8):
            spoilt[place] = int(rng.integers(0, 256))
        damaged.append(bytes(spoilt))
    refused = 0
    for source in damaged:
        try:
            assert load_image(source).shape[2] == 3
        except InputError:
            refused += 1
    assert refused


def test_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = _encode(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    file = tmp_path / "half.jpg"
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"half\.jpg: truncated or damaged"):
        load_image(file)


def test_size_limit_is_that_of_pillow() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert abs(2 * Image.MAX_IMAGE_PIXELS - MAX_PIXELS) <= 2
