"""Any COCO instance file, read strictly.

Everything that a file can get wrong is found here, before the COCO API's C code sees any of it, and
told in one line that names the file and the entry. Category ids may be sparse: they are mapped to
rows of ``names``, and categories of equal name (white space around it left out) are one name, since
a name is all that the network is asked for.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mobius_seg.data import coco_checks as check
from mobius_seg.data.rle import decode_mask
from mobius_seg.errors import InputError


class Rle(TypedDict):
    """A mask as COCO run lengths: ``size`` [height, width] and compressed ``counts``."""

    size: list[int]
    counts: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoImage:
    """A picture of the file.

    Attributes:
        id: as in the file.
        file_name: relative to the folder of pictures.
        height: in pixels, after EXIF orientation.
        width: in pixels, after EXIF orientation.
        absent: rows of the names known to be absent, where annotation is federated
            (``neg_category_ids``, as in LVIS); None where every name is annotated exhaustively.
    """

    id: int
    file_name: str
    height: int
    width: int
    absent: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoAnnotation:
    """An instance of the file.

    Attributes:
        id: as in the file.
        image: index into ``images``.
        name: row of ``names``.
        bbox: x, y, width, height in pixels.
        area: in pixels, or None where the file has none.
        crowd: True for a region of many instances, which is neither learnt nor scored.
        segmentation: polygons, or compressed run lengths, or None where only the box is known.
    """

    id: int
    image: int
    name: int
    bbox: tuple[float, float, float, float]
    area: float | None
    crowd: bool
    segmentation: check.Segmentation


@dataclass(frozen=True, kw_only=True)
class CocoData:
    """A checked COCO file.

    Attributes:
        path: the file.
        names: the distinct category names, in the file's order.
        categories: COCO category id -> row of ``names``.
        images: as in the file.
        annotations: as in the file.
        split: what ``info.split`` says, as ``mobius-seg compose`` writes it; None = nothing.
        sources: the objects of ``info.sources``, where ``mobius-seg rooms`` lists the packages
            that its pictures are made of.
    """

    path: Path
    names: tuple[str, ...]
    categories: dict[int, int]
    images: tuple[CocoImage, ...]
    annotations: tuple[CocoAnnotation, ...]
    split: str | None = None
    sources: tuple[dict[str, Any], ...] = ()

    def check_exhaustive(self) -> None:
        """See that prompts without names can be judged by the file.

        Raises:
            InputError: it is federated: what it leaves out may be in a picture all the same.
        """
        if any(image.absent is not None for image in self.images):
            raise InputError(
                f"{self.path}: is federated (neg_category_ids) and leaves objects out; calibration"
                " without names needs a file that annotates every object"
            )

    @cached_property
    def by_image(self) -> list[list[int]]:
        """Indices of the annotations of each image."""
        groups: list[list[int]] = [[] for _ in self.images]
        for index, annotation in enumerate(self.annotations):
            groups[annotation.image].append(index)
        return groups

    def check_held_out(self, use: str) -> None:
        """See that the file is not one of a split that training or testing uses.

        Args:
            use: what the pictures are wanted for.

        Raises:
            InputError: it holds the split ``train`` or one whose name begins with ``val``.
        """
        if self.split is not None and (self.split == "train" or self.split.startswith("val")):
            raise InputError(
                f"{self.path}: holds the split {self.split!r}, which {use} must not see; allowed:"
                " calib, or pictures that neither training nor testing uses"
            )

    def provenance(self) -> dict[str, str | None]:
        """Name of the file, its split and its SHA-256, for the conditions of a fit."""
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return {"annotations": self.path.name, "split": self.split, "annotations_sha256": digest}

    def rle(self, index: int) -> Rle | None:
        """The mask of annotation ``index`` as run lengths, or None where only the box is known."""
        annotation = self.annotations[index]
        image = self.images[annotation.image]
        size = [image.height, image.width]
        if annotation.segmentation is None:
            return None
        if isinstance(annotation.segmentation, bytes):
            return {"size": size, "counts": annotation.segmentation}
        parts = coco_mask.frPyObjects(annotation.segmentation, *size)
        return {"size": size, "counts": coco_mask.merge(parts)["counts"]}

    def mask(self, index: int) -> NDArray[np.bool_] | None:
        """The mask of annotation ``index``, bool [H, W], or None where only the box is known."""
        rle = self.rle(index)
        return None if rle is None else decode_mask(rle["counts"], *rle["size"])


def read_coco(path: str | Path) -> CocoData:
    """Read and check a COCO instance file.

    An empty ``annotations`` list is allowed (nothing is to be found; AP is then undefined); no
    images or no categories are not.

    Args:
        path: the JSON file.

    Raises:
        InputError: the file or an entry of it is malformed; one line says which, what is wrong and
            what is allowed.
    """
    file = Path(path)
    data = check.read_json_object(file, "annotation file")
    try:
        image_entries = check.entries(data, "images")
        annotation_entries = check.entries(data, "annotations", may_be_empty=True)
        category_entries = check.entries(data, "categories")
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    names: dict[str, int] = {}
    categories: dict[int, int] = {}
    images: list[CocoImage] = []
    rows: dict[int, int] = {}
    annotations: list[CocoAnnotation] = []
    seen: set[int] = set()
    read_entries(file, "categories", category_entries, lambda e: _category(e, names, categories))
    read_entries(file, "images", image_entries, lambda e: _image(e, images, rows, categories))
    read_entries(
        file,
        "annotations",
        annotation_entries,
        lambda e: annotations.append(_annotation(e, seen, images, rows, categories)),
    )
    return CocoData(
        path=file,
        names=tuple(names),
        categories=categories,
        images=tuple(images),
        annotations=tuple(annotations),
        **_info(data),
    )


def _info(data: dict[str, Any]) -> dict[str, Any]:
    """``info.split`` and ``info.sources``; any COCO file may say other things there."""
    info = data.get("info")
    if not isinstance(info, dict):
        return {}
    split, sources = info.get("split"), info.get("sources")
    listed = sources if isinstance(sources, list) else []
    return {
        "split": split if isinstance(split, str) else None,
        "sources": tuple(source for source in listed if isinstance(source, dict)),
    }


def read_entries(
    file: Path, key: str, values: list[Any], read: Callable[[dict[str, Any]], None]
) -> None:
    """Read every entry of a list, naming file, list, index and id of the one that is wrong.

    Args:
        file: named in the message.
        key: name of the list.
        values: its entries.
        read: checks one entry and keeps it.

    Raises:
        InputError: an entry is not an object, or ``read`` refuses it.
    """
    for index, value in enumerate(values):
        try:
            read(check.entry_object(value))
        except InputError as error:
            known = isinstance(value, dict) and type(value.get("id")) is int
            where = f"{key}[{index}]" + (f" (id {check.show(value, 'id')})" if known else "")
            raise InputError(f"{file}: {where}: {error}") from None


def picture_path(image: CocoImage, folder: Path) -> Path:
    """Where the picture of an image entry lies.

    Raises:
        InputError: there is no such file.
    """
    path = folder / image.file_name
    try:
        found = path.is_file()
    except OSError:  # a name longer than the file system takes
        found = False
    if not found:
        raise InputError(
            f"{folder}: no picture {image.file_name!r:.100} here (image id {image.id} of the "
            f"annotation file)"
        )
    return path


def _category(entry: dict[str, Any], names: dict[str, int], categories: dict[int, int]) -> None:
    """Keep one category; equal names share a row."""
    identity = _new_id(entry, categories)
    name = check.text(entry, "name")
    categories[identity] = names.setdefault(name, len(names))


def _image(
    entry: dict[str, Any],
    images: list[CocoImage],
    rows: dict[int, int],
    categories: dict[int, int],
) -> None:
    """Keep one image entry."""
    identity = _new_id(entry, rows)
    height, width = check.picture_size(entry)
    absent = None
    if "neg_category_ids" in entry:
        values = entry["neg_category_ids"]
        if not isinstance(values, list):
            raise InputError(
                f"`neg_category_ids` is {check.kind(values)}; allowed: a list of category ids"
            )
        ids = ({"neg_category_ids": value} for value in values)
        absent = tuple(check.known(e, "neg_category_ids", categories, "categories") for e in ids)
    file_name = check.text(entry, "file_name")
    rows[identity] = len(images)
    images.append(
        CocoImage(id=identity, file_name=file_name, height=height, width=width, absent=absent)
    )


def _annotation(
    entry: dict[str, Any],
    seen: set[int],
    images: list[CocoImage],
    rows: dict[int, int],
    categories: dict[int, int],
) -> CocoAnnotation:
    """One annotation entry, checked against the images and the categories."""
    identity = _new_id(entry, seen)
    seen.add(identity)
    row = check.known(entry, "image_id", rows, "images")
    name = check.known(entry, "category_id", categories, "categories")
    height, width = images[row].height, images[row].width
    return CocoAnnotation(
        id=identity,
        image=row,
        name=name,
        bbox=check.bbox(entry, height, width),
        area=check.area(entry),
        crowd=check.crowd(entry),
        segmentation=check.segmentation(entry, height, width),
    )


def _new_id(entry: dict[str, Any], taken: set[int] | dict[int, int]) -> int:
    """The entry's id, which no earlier entry may have."""
    identity = check.whole(entry, "id")
    if identity in taken:
        raise InputError(f"`id` {identity} was used before; allowed: an id of its own")
    return identity
