"""Building a pack: rendering, drawing, colours, text vectors and backgrounds put together."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from mobius_seg.data.assets import Source, read_sources
from mobius_seg.data.backgrounds import Background, collect_backgrounds
from mobius_seg.data.objects import ObjectEntry, dominant_colour, draw_all, list_objects
from mobius_seg.data.pack import CALIB, TRAIN, VAL, Cutout, PackMeta, write_pack
from mobius_seg.data.render import WEBP_QUALITY, encode, render_all, shrink
from mobius_seg.data.split import coco_names, read_split
from mobius_seg.errors import InputError
from mobius_seg.text import default_encoder
from mobius_seg.text_cache import BUNDLED_NAMES, write_names

# Views a model and longest side, from the largest pack to the smallest; a size limit takes the
# first step that fits. Four views are the fewest: two for train, one for calib, one for val.
_VIEW_STEPS = (24, 20, 16, 14, 12, 10, 8, 8, 8, 8, 6, 6, 5, 4, 4, 4, 4, 4)
_SIDE_STEPS = (192, 176, 160, 144, 128, 112, 104, 96, 88, 80, 80, 72, 72, 80, 72, 64, 56, 48)
_SAMPLE = 200  # pictures encoded to foresee a step's size
_MARGIN = 0.97  # of the limit, since the size is foreseen from a sample
_BACKGROUND_SIDE = 512


@dataclass(frozen=True, kw_only=True)
class PackSummary:
    """What a built pack holds.

    Attributes:
        base: base names.
        novel: novel names.
        cutouts: pictures of objects.
        backgrounds: pictures of backgrounds.
        views: most views a model.
        max_side: longest side of a cut-out, pixels.
        megabytes: size of the file, 2**20 bytes each.
        failures: (model, reason) of every model that could not be rendered.
    """

    base: int
    novel: int
    cutouts: int
    backgrounds: int
    views: int
    max_side: int
    megabytes: float
    failures: tuple[tuple[str, str], ...]


def build(
    assets_dir: Path, out: Path, *, views: int, max_mb: float | None, max_side: int
) -> PackSummary:
    """Render what is not rendered yet and write the pack; see :func:`pack.build_pack`."""
    sources = read_sources()
    entries = list_objects(assets_dir, sources)
    renders = assets_dir / "renders"
    renders.mkdir(parents=True, exist_ok=True)
    models = [entry.model for entry in entries if entry.model is not None]
    processes = min(8, os.cpu_count() or 1)
    failures = render_all(models, renders, views=views, max_side=max_side, processes=processes)
    pictures = draw_all(entries, renders, max_side)
    entries = [entry for entry in entries if (entry.source.package, entry.key) in pictures]
    names, sides = _names(entries)
    view_lists = [pictures[entry.source.package, entry.key] for entry in entries]
    backgrounds = collect_backgrounds(assets_dir)
    background_size = sum(len(background.data) for background in backgrounds)
    step = _fitting_step(view_lists, background_size, views, max_side, max_mb)
    if step[1] < max_side:
        side = round(_BACKGROUND_SIDE * step[1] / max_side)
        backgrounds = collect_backgrounds(assets_dir, max_side=side)
    cutouts = _cutouts(entries, view_lists, names, step, max_side)
    colours = [
        entry.colour or _colour(view_list)
        for entry, view_list in zip(entries, view_lists, strict=True)
    ]
    encoder = default_encoder()
    write_pack(
        out,
        meta=PackMeta(
            names=tuple(names),
            name_split=tuple(sides),
            object_colours=tuple(colours),
            sources=tuple(_source_rows(entries, sources, backgrounds)),
            text_identity=encoder.identity,
        ),
        name_embeddings_ND=encoder.encode(names).pooled_KD.numpy(),
        cutouts=cutouts,
        backgrounds=[(background.data, background.split) for background in backgrounds],
    )
    return PackSummary(
        base=sides.count("base"),
        novel=sides.count("novel"),
        cutouts=len(cutouts),
        backgrounds=len(backgrounds),
        views=step[0],
        max_side=step[1],
        megabytes=out.stat().st_size / 2**20,
        failures=tuple(failures),
    )


def write_bundled_names(path: Path = BUNDLED_NAMES) -> int:
    """Write the text vectors that ship with the package: all names of the split and COCO's 80.

    Returns:
        How many names it holds.
    """
    names = sorted({*read_split(), *coco_names()})
    write_names(path, names, default_encoder())
    return len(names)


def view_split(view: int) -> int:
    """Split bit of a rendered model's view: of 24, six are val's, two calib's, the rest train's."""
    if view % 4 == 3:
        return VAL
    return CALIB if view % 12 == 6 else TRAIN


def kept_views(views: int, count: int) -> list[int]:
    """Which ``count`` of a model's ``views`` a smaller pack keeps: every split keeps its share."""
    first = (0, 3, 6)  # one of each split
    return sorted(sorted(range(views), key=lambda view: (view not in first, view))[:count])


def _names(entries: Sequence[ObjectEntry]) -> tuple[list[str], list[str]]:
    """Names that have pictures, sorted, with their side in the stored split."""
    split = read_split()
    names = sorted({entry.name for entry in entries})
    unknown = [name for name in names if name not in split]
    if unknown:
        raise InputError(
            f"split.json lacks {len(unknown)} names of the fetched packages: "
            f"{', '.join(unknown[:5])}"
        )
    return names, [split[name] for name in names]


def _fitting_step(
    view_lists: Sequence[Sequence[bytes]],
    background_size: int,
    views: int,
    max_side: int,
    max_mb: float | None,
) -> tuple[int, int]:
    """Views a model and longest side of the largest pack that fits into ``max_mb``."""
    if max_mb is None:
        return views, max_side
    smaller = [
        (v, s)
        for v, s in zip(_VIEW_STEPS, _SIDE_STEPS, strict=True)
        if v <= views and s <= max_side
    ]
    chosen = list(dict.fromkeys([(views, max_side), *smaller]))
    rng = np.random.default_rng(0)
    step: tuple[int, int]
    for step in tqdm(chosen, "fit", unit="size"):
        kept = [
            view_list[view]
            for view_list in view_lists
            for view in kept_views(len(view_list), step[0])
        ]
        sample = [kept[int(i)] for i in rng.permutation(len(kept))[:_SAMPLE]]
        mean = np.mean([len(_resize(data, step[1], max_side)) for data in sample])
        size = mean * len(kept) + background_size * (step[1] / max_side) ** 1.5
        size += 40 * len(kept) + 2**20 * 1.2  # labels, text vectors, names
        if size <= max_mb * 2**20 * _MARGIN:
            return step
    raise InputError(f"max_mb {max_mb:g}: too small to keep every name; try {max_mb * 2:g}")


def _cutouts(
    entries: Sequence[ObjectEntry],
    view_lists: Sequence[Sequence[bytes]],
    names: Sequence[str],
    step: tuple[int, int],
    max_side: int,
) -> list[Cutout]:
    row = {name: index for index, name in enumerate(names)}
    source_row = {key: index for index, key in enumerate(_source_keys(entries))}
    cutouts = []
    pairs = list(zip(entries, view_lists, strict=True))
    for number, (entry, view_list) in enumerate(tqdm(pairs, "pack", unit="object")):
        for view in kept_views(len(view_list), step[0]):
            cutouts.append(
                Cutout(
                    data=_resize(view_list[view], step[1], max_side),
                    name=row[entry.name],
                    split=TRAIN | CALIB | VAL if entry.model is None else view_split(view),
                    object=number,
                    source=source_row[_source_key(entry)],
                )
            )
    return cutouts


def _source_key(entry: ObjectEntry) -> tuple[str, str]:
    """Package and licence: one furniture package holds models of several licences."""
    licence = entry.source.licence if entry.model is None else entry.model.licence
    return entry.source.package, licence


def _source_keys(entries: Sequence[ObjectEntry]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(_source_key(entry) for entry in entries))


def _source_rows(
    entries: Sequence[ObjectEntry], sources: Sequence[Source], backgrounds: Sequence[Background]
) -> list[dict[str, Any]]:
    """One row for each package and licence of cut-outs, then the backgrounds' packages."""
    summaries = {source.package: source.summary() for source in sources}
    rows = []
    for package, licence in _source_keys(entries):
        authors = {
            entry.model.author
            for entry in entries
            if entry.model is not None and _source_key(entry) == (package, licence)
        }
        row = summaries[package] | {"licence": licence, "role": "object"}
        rows.append(row | ({"author": ", ".join(sorted(authors))} if authors else {}))
    by_licence = sorted({(b.package, b.licence) for b in backgrounds})
    for package, licence in by_licence:
        authors = {b.author for b in backgrounds if (b.package, b.licence) == (package, licence)}
        row = summaries.get(package, {"package": package})
        found = {"licence": licence, "author": ", ".join(sorted(authors)), "role": "background"}
        rows.append(row | found)
    return rows


def _colour(view_list: Sequence[bytes]) -> str | None:
    """The colour that most of up to five views agree on, None when they do not."""
    words = [dominant_colour(_decode(data)) for data in view_list[:5]]
    best = max(words, key=words.count)
    return best if words.count(best) * 2 > len(words) else None


def _resize(data: bytes, side: int, full_side: int) -> bytes:
    """Encode a picture anew at ``side / full_side`` of its size; as it is when they are equal."""
    if side == full_side:
        return data
    picture = _decode(data)
    longest = max(1, round(max(picture.shape[:2]) * side / full_side))
    return encode(shrink(picture, longest), WEBP_QUALITY - 6)


def _decode(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGBA"))
