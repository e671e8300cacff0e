"""A smaller pack with some of the names: short experiments, on fewer things."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from mobius_seg.data.pack import CALIB, TRAIN, VAL, Pack, meta_text
from mobius_seg.errors import InputError
from mobius_seg.files import atomic_path

_BY_CUTOUT = ("cutout_name", "cutout_split", "cutout_object", "cutout_source")


def frequent_names(pack: Pack, count: int) -> tuple[str, ...]:
    """The base names that the most different drawings and models show.

    Only names with cut-outs to train on, to calibrate on and to measure on count. Equal numbers are
    ordered by the number of cut-outs, then as in the pack.

    Args:
        pack: an open pack.
        count: how many names.

    Raises:
        InputError: the pack has fewer such names.
    """
    found = []
    for row, side in enumerate(pack.name_split):
        shown = pack.cutout_name == row
        splits = pack.cutout_split[shown]
        if side == "base" and all((splits & bit).any() for bit in (TRAIN, CALIB, VAL)):
            trained = (splits & TRAIN) > 0
            objects = len(np.unique(pack.cutout_object[shown][trained]))
            found.append((-objects, -int(trained.sum()), row))
    if not 1 <= count <= len(found):
        raise InputError(f"names {count}: {pack.path} has 1 to {len(found)} for every split")
    return tuple(pack.names[row] for *_, row in sorted(found)[:count])


def restrict_pack(source: str | Path, names: Sequence[str], out: str | Path) -> Path:
    """Write a pack that holds only the cut-outs of some names; backgrounds and splits stay.

    Everything that composes scenes, trains or evaluates takes it as any other pack: what has a name
    outside of it does not occur.

    Args:
        source: the full pack.
        names: names to keep; in the new pack they stand in the order of the full one.
        out: the pack to write, whole or not at all.

    Returns:
        ``out``.

    Raises:
        InputError: the pack cannot be read, no name is given, or one is not in it.
    """
    pack = Pack.open(source)
    unknown = sorted(set(names) - set(pack.names))
    if unknown or not names:
        what = f"has no name {unknown[0]!r}" if unknown else "is to keep no name; allowed: some"
        raise InputError(f"{source}: {what}")
    rows = np.array([row for row, name in enumerate(pack.names) if name in set(names)])
    tensors: dict[str, NDArray[Any]] = load_file(source)
    kept = np.flatnonzero(np.isin(tensors["cutout_name"], rows))
    offsets = tensors["cutout_offsets"]
    parts = [tensors["cutout_bytes"][offsets[i] : offsets[i + 1]] for i in kept]
    tensors["cutout_offsets"] = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    tensors["cutout_bytes"] = np.concatenate(parts)
    tensors |= {key: tensors[key][kept] for key in _BY_CUTOUT}
    tensors["cutout_name"] = np.searchsorted(rows, tensors["cutout_name"]).astype(np.int32)
    tensors["name_embeddings"] = tensors["name_embeddings"][rows]
    meta = replace(
        pack.meta,
        names=tuple(pack.names[row] for row in rows),
        name_split=tuple(pack.name_split[row] for row in rows),
    )
    with atomic_path(out) as temporary:
        save_file(tensors, temporary, metadata={"meta": meta_text(meta)})
    return Path(out)
