"""COCO data sets of drawn rooms.

A scene depends on the seed and its number alone (and on the version of Blender that draws it). Each
finished scene is kept as its picture and a small file of what is on it, so that an interrupted run
goes on where it stopped; the annotation file is written last, whole or not at all.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from mobius_seg.data.assets import Source, read_sources
from mobius_seg.data.catalogue import FurnitureModel
from mobius_seg.data.objects import list_objects
from mobius_seg.data.room_render import DrawnRoom, RoomRenderer
from mobius_seg.data.room_things import Stock, make_thing
from mobius_seg.data.rooms import PLANNER_VERSION, plan_scene
from mobius_seg.data.split import read_split
from mobius_seg.errors import InputError
from mobius_seg.files import atomic_path, write_text
from mobius_seg.json_values import parse_json
from mobius_seg.stops import polite_stop

ATTEMPTS = 4
FEWEST, MOST = 3, 15
"""Things that a picture should show; after ``ATTEMPTS`` plans the nearest one is taken."""


@dataclass(frozen=True, kw_only=True)
class RoomAssets:
    """What rooms are made of.

    Attributes:
        stock: things of base names, for the planner.
        models: their models by key.
        names: all base names, whether there is a model or not.
        textures: pictures for floors and walls, of the split train.
        sources: the packages, as recorded with data sets.
    """

    stock: Stock
    models: dict[str, FurnitureModel]
    names: tuple[str, ...]
    textures: tuple[Path, ...]
    sources: tuple[dict[str, Any], ...]


def read_assets(assets_dir: str | Path) -> RoomAssets:
    """List the models and textures that rooms may show: base names, train textures.

    Args:
        assets_dir: folder of :func:`mobius_seg.data.assets.fetch`.

    Raises:
        InputError: a package is not there, or a texture is not the chosen file.
    """
    sources = read_sources()
    furniture = [source for source in sources if source.kind == "furniture"]
    side = read_split()
    models, things = {}, []
    for entry in list_objects(assets_dir, furniture):
        if side.get(entry.name) != "base" or entry.model is None:
            continue
        thing = make_thing(entry.model, entry.name)
        if thing is not None and entry.model.path.is_file():
            models[thing.key] = entry.model
            things.append(thing)
    textures, packages = _textures(Path(assets_dir), sources)
    used = [s for s in sources if s in furniture or s.package in packages]
    return RoomAssets(
        stock=Stock(things),
        models=models,
        names=tuple(name for name, its_side in side.items() if its_side == "base"),
        textures=tuple(textures),
        sources=tuple(source.summary() for source in used),
    )


def write_rooms(
    assets_dir: str | Path,
    count: int,
    size: int,
    seed: int,
    out: str | Path,
    *,
    samples: int = 12,
    threads: int | None = None,
) -> str:
    """Draw rooms and write them as a COCO instance data set.

    The folder holds ``annotations.json``, ``images/*.png``, and in ``scenes`` what is on every
    picture; a run that was stopped goes on, and a larger count adds to a smaller one.

    Args:
        assets_dir: folder of :func:`mobius_seg.data.assets.fetch`.
        count: number of scenes.
        size: height and width in pixels, 32 to 2048.
        seed: whole number >= 0; scene i is drawn from (seed, i).
        out: folder to make or to go on with.
        samples: light paths a pixel, 1 to 4096.
        threads: CPU threads; None takes all cores.

    Returns:
        SHA-256 of ``annotations.json`` in hex.

    Raises:
        InputError: a bad number, missing packages, no Blender, or ``out`` holds something else.
        KeyboardInterrupt: the run was stopped, after the scene in progress.
    """
    out = Path(out)
    for name, value, low, high in (
        ("count", count, 1, 10**6), ("size", size, 32, 2048), ("samples", samples, 1, 4096)
    ):  # fmt: skip
        if not low <= value <= high:
            raise InputError(f"{name} {value}: must be in {low}..{high}")
    if seed < 0:
        raise InputError(f"seed {seed}: must be at least 0")
    assets = read_assets(assets_dir)
    renderer = RoomRenderer(
        assets.models, assets.textures, size=size, samples=samples, threads=threads
    )
    info = {
        "description": "rooms drawn from 3D models by path tracing (composed, not photographed)",
        "composed": True,
        "planner_version": PLANNER_VERSION,
        "renderer": renderer.version,
        "split": "train",
        "size": size,
        "seed": seed,
        "samples": samples,
        "sources": list(assets.sources),
    }
    _claim(out, info)
    todo = [i for i in range(count) if not _scene_path(out, i).exists()]
    for index in _until_stopped(tqdm(todo, "rooms", unit="room", disable=not todo)):
        _save(out, index, _draw(renderer, assets, seed, index))
    return _assemble(out, count, {**info, "count": count}, assets.names)


class _Run:
    stop = False


def _until_stopped(numbers: Iterable[int]) -> Iterator[int]:
    """The numbers, until a signal comes; Blender swallows what one raises while it draws."""
    run = _Run()
    with polite_stop(run):
        for number in numbers:
            yield number
            if run.stop:
                raise KeyboardInterrupt


def _draw(renderer: RoomRenderer, assets: RoomAssets, seed: int, index: int) -> DrawnRoom:
    """The first plan of a scene that shows enough, or the best of a few."""
    best: tuple[int, DrawnRoom] | None = None
    textures = [path.name for path in assets.textures]
    for attempt in range(ATTEMPTS):
        plan = plan_scene(assets.stock, textures, seed, index, attempt)
        drawn = renderer.draw(plan)
        distance = max(FEWEST - drawn.shown, drawn.shown - MOST, 0)
        if best is None or distance < best[0]:
            best = distance, drawn
        if distance == 0:
            break
    assert best is not None
    return best[1]


def _claim(out: Path, info: dict[str, Any]) -> None:
    """Make the folder, or see that it holds scenes of the same settings."""
    settings = out / "rooms.json"
    text = json.dumps(info, ensure_ascii=False, indent=1)
    if settings.is_file():
        if settings.read_text(encoding="utf-8") != text:
            raise InputError(
                f"{out}: holds rooms of other settings (see rooms.json); allowed: the same size,"
                " seed, samples, packages and Blender, or another folder"
            )
        return
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder")
    write_text(settings, text)


def _scene_path(out: Path, index: int) -> Path:
    return out / "scenes" / f"{index + 1:06d}.json"


def _save(out: Path, index: int, room: DrawnRoom) -> None:
    """Write the picture, then what is on it."""
    with atomic_path(out / "images" / f"{index + 1:06d}.png") as temporary:
        Image.fromarray(room.image).save(temporary)
    found = []
    for number, placement in enumerate(room.placements):
        mask = room.masks[number]
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y = int(columns[0]), int(rows[0])
        found.append(
            {
                "name": placement.thing.name,
                "model": placement.thing.key,
                "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
                "area": int(mask.sum()),
                "full_area": round(room.full_areas[number]),
                "iscrowd": int(room.crowd[number]),
                "segmentation": {
                    "size": [int(side) for side in rle["size"]],
                    "counts": rle["counts"].decode("ascii"),
                },
            }
        )
    size = room.image.shape[0]
    content = {"height": size, "width": size, "objects": found}
    write_text(_scene_path(out, index), json.dumps(content, separators=(",", ":")))


def _assemble(out: Path, count: int, info: dict[str, Any], names: Sequence[str]) -> str:
    """Write the annotation file of the first ``count`` scenes; its SHA-256."""
    category = {name: number for number, name in enumerate(names, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        path = _scene_path(out, index)
        scene = parse_json(path.read_text(encoding="utf-8"))
        images.append(
            {
                "id": index + 1,
                "file_name": f"{index + 1:06d}.png",
                "height": scene["height"],
                "width": scene["width"],
            }
        )
        for entry in scene["objects"]:
            kept = {key: entry[key] for key in ("bbox", "area", "iscrowd", "segmentation")}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": category[entry["name"]],
                    **kept,
                }
            )
    content = {
        "info": info,
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "object"}
            for name, number in category.items()
        ],
        "licenses": [],
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    write_text(out / "annotations.json", text)
    return hashlib.sha256(text.encode()).hexdigest()


def _textures(assets_dir: Path, sources: Sequence[Source]) -> tuple[list[Path], set[str]]:
    """Train textures of the list of backgrounds, and the packages that they come from."""
    text = resources.files("mobius_seg.data").joinpath("background_list.json").read_text("utf-8")
    folders = {source.package: source.unpacked(assets_dir) for source in sources}
    found, packages = [], set()
    for entry in json.loads(text)["pictures"]:
        if entry["kind"] != "texture" or entry["split"] != "train":
            continue
        archive, _, member = entry["file"].partition("!")
        path = folders[entry["package"]] / archive
        if member:  # catalogues are unpacked beside themselves
            path = path.with_suffix("") / member
        if not path.is_file():
            raise InputError(f"{path}: texture not found; run `mobius-seg assets fetch`")
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != entry["sha256"]:
                raise InputError(f"{path}: not the file that was chosen (digest differs)")
        found.append(path)
        packages.add(entry["package"])
    return found, packages
