"""COCO run-length masks, read with suspicion.

A mask of height H and width W is written column by column as run lengths that alternate between
background and object, background first. The compressed form packs each run into characters of six
bits (five of value, one "more follows", offset 48, the sign in the highest value bit), and from the
fourth run on stores the difference to the run two before. The format is that of the COCO API
(maskApi); its C code trusts the runs and reads out of bounds where they do not fill the picture, so
nothing reaches it from a file before it has passed through here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobius_seg.errors import InputError

_OFFSET = 48  # the character that stands for six zero bits
_MORE = 0x20
_SIGN = 0x10
_MAX_GROUPS = 6  # 30 bits: the COCO API's C code shifts 32-bit integers

MAX_PIXELS = 2**29 - 1
"""Most pixels a masked picture may have: runs and their differences then fit six groups."""

Runs = NDArray[np.int64]


def decode_counts(counts: str | bytes) -> Runs:
    """Run lengths of a compressed COCO string, not yet checked against a picture.

    Args:
        counts: the ``counts`` of a compressed RLE.

    Returns:
        int64 [R] run lengths, which may still be negative or of a wrong sum.

    Raises:
        InputError: a character is outside the code, the last number is cut off, or a number is too
            long for any picture.
    """
    raw = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
    bits = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - _OFFSET
    if not bits.size:
        return np.zeros(0, dtype=np.int64)
    if bits.min() < 0 or bits.max() > 63:
        at = int(np.flatnonzero((bits < 0) | (bits > 63))[0])
        raise InputError(f"character {at} of the compressed RLE is not one of '0' to 'o'")
    last = np.flatnonzero((bits & _MORE) == 0)
    if not last.size or last[-1] != bits.size - 1:
        raise InputError("the compressed RLE ends in the middle of a number")
    first = np.concatenate([[0], last[:-1] + 1])
    groups = last - first + 1
    if groups.max() > _MAX_GROUPS:
        raise InputError("the compressed RLE holds a number longer than any picture")
    shift = 5 * (np.arange(bits.size) - np.repeat(first, groups))
    runs = np.add.reduceat((bits & 0x1F) << shift, first)
    runs -= np.where(bits[last] & _SIGN, np.int64(1) << (5 * groups), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def encode_counts(runs: Sequence[int] | Runs) -> bytes:
    """The compressed COCO string of run lengths (the inverse of :func:`decode_counts`)."""
    values = [int(run) for run in runs]
    out = bytearray()
    for i, value in enumerate(values):
        rest = value - values[i - 2] if i > 2 else value
        more = True
        while more:
            group = rest & 0x1F
            rest >>= 5
            more = rest != (-1 if group & _SIGN else 0)
            out.append((group | (_MORE if more else 0)) + _OFFSET)
    return bytes(out)


def check_runs(runs: Runs, height: int, width: int) -> Runs:
    """Run lengths that fill a picture exactly, without empty runs inside.

    Empty runs are legal but pointless; two of them at one place end the COCO API's comparison of
    two masks early, so they are merged away.

    Args:
        runs: int64 [R].
        height: of the picture, in pixels.
        width: of the picture, in pixels.

    Returns:
        int64 [R'] of the same mask: the first run may be 0, all others are positive.

    Raises:
        InputError: a run is negative, or the runs do not sum to height x width.
    """
    pixels = height * width
    if runs.size and not 0 <= runs.min() <= runs.max() <= pixels:
        at = int(np.flatnonzero((runs < 0) | (runs > pixels))[0])
        raise InputError(
            f"run {at} of the RLE is {runs[at]}; allowed: 0 to height x width = {pixels}"
        )
    total = int(runs.sum())
    if total != pixels:
        raise InputError(
            f"the runs of the RLE sum to {total}; allowed: height x width = "
            f"{height} x {width} = {pixels}"
        )
    if not (runs[1:] == 0).any():
        return runs
    edges = np.cumsum(runs)
    edges, flips = np.unique(edges, return_counts=True)
    edges = edges[(flips % 2 == 1) & (edges < pixels)]
    merged: Runs = np.diff(edges, prepend=0, append=pixels)
    return merged


def read_rle(rle: dict[str, Any], height: int, width: int) -> bytes:
    """The ``counts`` of a COCO RLE from a file, checked and brought to one form.

    Args:
        rle: ``{"size": [height, width], "counts": ...}``, counts a list of whole numbers
            (uncompressed) or a string (compressed).
        height: of the picture, in pixels.
        width: of the picture, in pixels.

    Returns:
        Compressed counts that are safe to hand to the COCO API.

    Raises:
        InputError: a key is missing or of a wrong type, the size is not the picture's, or the runs
            are not those of a mask of that size.
    """
    if "size" not in rle or "counts" not in rle:
        raise InputError("an RLE needs `size` and `counts`")
    size, counts = rle["size"], rle["counts"]
    if not isinstance(size, list | tuple) or list(map(type, size)) != [int, int]:
        raise InputError(f"RLE `size` is {size!r:.60}; allowed: [height, width], whole numbers")
    if list(size) != [height, width]:
        raise InputError(
            f"RLE `size` is {list(size)}; allowed: the picture's [height, width] = "
            f"[{height}, {width}]"
        )
    if isinstance(counts, str | bytes):
        decoded = decode_counts(counts)
        runs = check_runs(decoded, height, width)
        if runs is decoded:
            return counts.encode("ascii") if isinstance(counts, str) else counts
        return encode_counts(runs)
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int}:
        raise InputError("RLE `counts` are of a wrong type; allowed: whole numbers or a string")
    if counts and max(map(abs, counts)) > MAX_PIXELS:
        raise InputError("an RLE run is longer than any picture")
    return encode_counts(check_runs(np.array(counts, dtype=np.int64), height, width))


def decode_mask(counts: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """The mask [H, W] of compressed counts that :func:`read_rle` returned."""
    runs = decode_counts(counts)
    values = np.zeros(len(runs), dtype=bool)
    values[1::2] = True
    return np.repeat(values, runs).reshape(width, height).T
