"""The pack: every cut-out, name embedding and background that training composes scenes from.

One safetensors file. Pictures stay WebP-encoded and are decoded when asked for, so opening a pack
costs little and several processes share its pages. Legend: n cut-outs, m backgrounds, N names,
D text dimensions.

    cutout_bytes     uint8 [bytes]    WebP RGBA pictures in a row (alpha not premultiplied)
    cutout_offsets   int64 [n + 1]    picture i is bytes[offsets[i]:offsets[i + 1]]
    cutout_name      int32 [n]        row in names
    cutout_split     uint8 [n]        bits: 1 train, 2 calib, 4 val
    cutout_object    int32 [n]        which drawing or model: views of one model share it
    cutout_source    int32 [n]        row in the metadata's sources
    name_embeddings  float16 [N, D]   pooled, L2-normalised text vectors
    background_bytes, background_offsets, background_split    the same for backgrounds (RGB)

The metadata entry ``meta`` is JSON: version, names, name_split, object_colours, sources,
text_identity.
"""

import hashlib
import io
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mobius_seg.errors import InputError
from mobius_seg.files import atomic_path

if TYPE_CHECKING:
    from mobius_seg.data.building import PackSummary

VERSION = 1
TRAIN, CALIB, VAL = 1, 2, 4
SPLITS = {  # split name -> (bit of the picture, side of the name)
    "train": (TRAIN, "base"),
    "calib": (CALIB, "base"),
    "val-base": (VAL, "base"),
    "val-novel": (VAL, "novel"),
}


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """One encoded cut-out on its way into a pack.

    Attributes:
        data: WebP file with alpha, cropped to the object.
        name: row in the pack's names.
        split: bit mask of TRAIN, CALIB and VAL.
        object: number of the drawing or model that it shows.
        source: row in the pack's sources.
    """

    data: bytes
    name: int
    split: int
    object: int
    source: int


@dataclass(frozen=True, kw_only=True)
class PackMeta:
    """What a pack says about itself, stored as JSON.

    Attributes:
        names: cleaned object names, each once.
        name_split: "base" or "novel" for every name.
        object_colours: dominant colour word of every object, None where there is none.
        sources: package, registry, version, licence, sha256 and author of every source.
        text_identity: identity of the text encoder behind the name embeddings.
        version: layout of the file.
    """

    names: tuple[str, ...]
    name_split: tuple[str, ...]
    object_colours: tuple[str | None, ...]
    sources: tuple[dict[str, Any], ...]
    text_identity: str
    version: int = VERSION


def write_pack(
    path: str | Path,
    *,
    meta: PackMeta,
    name_embeddings_ND: NDArray[np.floating[Any]],
    cutouts: Sequence[Cutout],
    backgrounds: Sequence[tuple[bytes, int]] = (),
) -> None:
    """Write a pack, whole or not at all.

    Args:
        path: the file to write.
        meta: names, splits, colours and sources.
        name_embeddings_ND: L2-normalised text vector of every name.
        cutouts: encoded pictures with their labels.
        backgrounds: (encoded RGB picture, bit mask of splits) pairs.
    """
    assert len(meta.name_split) == len(meta.names) == len(name_embeddings_ND)
    assert all(0 <= c.name < len(meta.names) for c in cutouts)
    assert all(0 <= c.object < len(meta.object_colours) for c in cutouts)
    assert all(0 <= c.source < len(meta.sources) for c in cutouts)
    cutout_bytes, cutout_offsets = _concatenate([c.data for c in cutouts])
    background_bytes, background_offsets = _concatenate([data for data, _ in backgrounds])
    tensors: dict[str, NDArray[Any]] = {
        "cutout_bytes": cutout_bytes,
        "cutout_offsets": cutout_offsets,
        "cutout_name": np.array([c.name for c in cutouts], np.int32),
        "cutout_split": np.array([c.split for c in cutouts], np.uint8),
        "cutout_object": np.array([c.object for c in cutouts], np.int32),
        "cutout_source": np.array([c.source for c in cutouts], np.int32),
        "name_embeddings": np.ascontiguousarray(name_embeddings_ND, np.float16),
        "background_bytes": background_bytes,
        "background_offsets": background_offsets,
        "background_split": np.array([split for _, split in backgrounds], np.uint8),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"meta": meta_text(meta)})


def meta_text(meta: PackMeta) -> str:
    """The metadata entry ``meta`` of a pack's file."""
    return json.dumps(meta.__dict__, ensure_ascii=False)


def build_pack(
    assets_dir: str | Path,
    out: str | Path,
    *,
    views: int = 24,
    max_mb: float | None = None,
    max_side: int = 192,
) -> "PackSummary":
    """Render, draw and encode everything that was fetched, and write it as one pack.

    Renders are kept in ``assets_dir/renders``, so that an interrupted or repeated run only makes
    what is missing.

    Args:
        assets_dir: folder of :func:`mobius_seg.data.assets.fetch`.
        out: the pack to write.
        views: viewpoints a model, at least 4.
        max_mb: largest file in MiB, None for no limit; views and resolution are lowered evenly
            until it fits, every name is kept.
        max_side: longest side of a cut-out, pixels, 32 to 512.

    Returns:
        What the pack holds, and which models could not be rendered.

    Raises:
        InputError: an argument is out of range, a package was not fetched, or ``max_mb`` cannot be
            met.
    """
    if not 4 <= views <= 360:
        raise InputError(f"views {views}: must be from 4 to 360")
    if not 32 <= max_side <= 512:
        raise InputError(f"max_side {max_side}: must be from 32 to 512")
    if max_mb is not None and not 0 < max_mb < 1e6:
        raise InputError(f"max_mb {max_mb}: must be a positive number")
    # imported here: building needs the renderer and the text encoder, reading a pack does not
    from mobius_seg.data.building import build

    return build(Path(assets_dir), Path(out), views=views, max_mb=max_mb, max_side=max_side)


class Pack:
    """A pack opened for reading; pictures are decoded when asked for and kept in a bounded cache.

    A pack can be sent to another process: the file is opened again there, with an empty cache.

    Attributes:
        path: the file.
        meta: what the pack says about itself.
        names: cleaned object names.
        name_split: "base" or "novel" for every name.
        name_embeddings: float16 [N, D] L2-normalised text vectors.
        cutout_name: int32 [n] row in names.
        cutout_split: uint8 [n] bits TRAIN, CALIB, VAL.
        cutout_object: int32 [n] number of the drawing or model.
        cutout_source: int32 [n] row in meta.sources.
        background_split: uint8 [m] bits TRAIN, CALIB, VAL.
    """

    def __init__(self, path: Path, cache_mb: float = 2000) -> None:
        """Open ``path``; see :meth:`open`."""
        self.path = path
        self._cache_mb = cache_mb
        self._cache = _PictureCache(int(cache_mb * 2**20))
        try:
            self._file = safe_open(path, framework="numpy")
        except FileNotFoundError:
            raise InputError(f"{path}: no such pack; make it with `mobius-seg assets`") from None
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a pack file ({error})") from None
        self.meta = _read_meta(path, self._file.metadata())
        tensors = {key: self._tensor(key) for key in _SMALL_TENSORS}
        self.name_embeddings = tensors["name_embeddings"]
        self.cutout_name = tensors["cutout_name"]
        self.cutout_split = tensors["cutout_split"]
        self.cutout_object = tensors["cutout_object"]
        self.cutout_source = tensors["cutout_source"]
        self.background_split = tensors["background_split"]
        self._cutout_offsets = tensors["cutout_offsets"]
        self._background_offsets = tensors["background_offsets"]

    @classmethod
    def open(cls, path: str | Path, cache_mb: float = 2000) -> "Pack":
        """Open a pack file.

        Args:
            path: file written by :func:`write_pack`.
            cache_mb: how many MiB of decoded pictures to keep, the latest used ones.

        Raises:
            InputError: the file is missing, is no pack, or has another layout version.
        """
        return cls(Path(path), cache_mb)

    def __reduce__(self) -> tuple[type["Pack"], tuple[Path, float]]:
        """Pickle as path and cache size."""
        return (Pack, (self.path, self._cache_mb))

    def __len__(self) -> int:
        """Number of cut-outs."""
        return len(self.cutout_name)

    @property
    def names(self) -> tuple[str, ...]:
        """Cleaned object names."""
        return self.meta.names

    @property
    def name_split(self) -> tuple[str, ...]:
        """Side of every name: "base" or "novel"."""
        return self.meta.name_split

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hex."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def cutout(self, index: int) -> NDArray[np.uint8]:
        """Decode cut-out ``index``: RGBA uint8 [h, w, 4], read-only, alpha not premultiplied."""
        return self._picture("cutout", self._cutout_offsets, index, "RGBA")

    def background(self, index: int) -> NDArray[np.uint8]:
        """Decode background ``index``: RGB uint8 [h, w, 3], read-only."""
        return self._picture("background", self._background_offsets, index, "RGB")

    def colour(self, index: int) -> str | None:
        """Dominant colour word of the object that cut-out ``index`` shows, None if it has none."""
        return self.meta.object_colours[int(self.cutout_object[index])]

    def cutouts_for(self, split: str) -> NDArray[np.int64]:
        """Cut-outs whose picture and name both belong to ``split``.

        Args:
            split: "train", "calib", "val-base" or "val-novel".

        Returns:
            int64 indices, ascending.

        Raises:
            InputError: unknown split.
        """
        bit, side = _split(split)
        on_side = np.array([name_side == side for name_side in self.name_split], bool)
        chosen = (self.cutout_split & bit).astype(bool) & on_side[self.cutout_name]
        return np.flatnonzero(chosen).astype(np.int64)

    def backgrounds_for(self, split: str) -> NDArray[np.int64]:
        """Backgrounds of ``split`` (both val splits share theirs), int64 indices, ascending.

        Raises:
            InputError: unknown split.
        """
        bit, _ = _split(split)
        return np.flatnonzero(self.background_split & bit).astype(np.int64)

    def _picture(
        self, kind: str, offsets: NDArray[Any], index: int, mode: str
    ) -> NDArray[np.uint8]:
        if not 0 <= index < len(offsets) - 1:
            raise IndexError(f"{kind} {index}: the pack holds {len(offsets) - 1}")
        key = (kind, int(index))
        picture = self._cache.get(key)
        if picture is None:
            start, stop = int(offsets[index]), int(offsets[index + 1])
            data = self._file.get_slice(f"{kind}_bytes")[start:stop]
            with Image.open(io.BytesIO(data.tobytes())) as image:
                picture = np.array(image.convert(mode))
            picture.flags.writeable = False
            self._cache.put(key, picture)
        return picture

    def _tensor(self, key: str) -> NDArray[Any]:
        try:
            tensor: NDArray[Any] = self._file.get_tensor(key)
        except SafetensorError as error:
            raise InputError(f"{self.path}: not a pack file ({error})") from None
        return tensor


_SMALL_TENSORS = (
    "name_embeddings",
    "cutout_name",
    "cutout_split",
    "cutout_object",
    "cutout_source",
    "cutout_offsets",
    "background_split",
    "background_offsets",
)


class _PictureCache:
    """Decoded pictures, the least recently used dropped first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._size = 0
        self._pictures: OrderedDict[tuple[str, int], NDArray[np.uint8]] = OrderedDict()

    def get(self, key: tuple[str, int]) -> NDArray[np.uint8] | None:
        picture = self._pictures.get(key)
        if picture is not None:
            self._pictures.move_to_end(key)
        return picture

    def put(self, key: tuple[str, int], picture: NDArray[np.uint8]) -> None:
        self._pictures[key] = picture
        self._size += picture.nbytes
        while self._size > self._limit and self._pictures:
            _, dropped = self._pictures.popitem(last=False)
            self._size -= dropped.nbytes


def _concatenate(items: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    offsets = np.zeros(len(items) + 1, np.int64)
    np.cumsum([len(item) for item in items], out=offsets[1:])
    return np.frombuffer(b"".join(items), np.uint8), offsets


def _split(split: str) -> tuple[int, str]:
    if split not in SPLITS:
        raise InputError(f"split {split!r}: must be one of {', '.join(SPLITS)}")
    return SPLITS[split]


def _read_meta(path: Path, metadata: Mapping[str, str] | None) -> PackMeta:
    try:
        entries = json.loads((metadata or {})["meta"])
        version = entries["version"]
        if version != VERSION:
            raise InputError(f"{path}: pack version {version}, this release reads {VERSION}")
        return PackMeta(
            names=tuple(entries["names"]),
            name_split=tuple(entries["name_split"]),
            object_colours=tuple(entries["object_colours"]),
            sources=tuple(entries["sources"]),
            text_identity=entries["text_identity"],
        )
    except (KeyError, TypeError, json.JSONDecodeError):
        raise InputError(f"{path}: not a pack file (its metadata lacks `meta`)") from None
