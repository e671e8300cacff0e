"""Rendering textured models off screen, from many viewpoints and in varied light.

VTK draws through Mesa's software OpenGL (EGL or OSMesa), so no display and no graphics card is
needed. Every model is drawn at twice the wanted size and averaged down, which gives a smooth alpha
edge; views are kept as WebP in one zip a model, so that an interrupted run goes on where it
stopped.
"""

import io
import math
import multiprocessing
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from mobius_seg.data.catalogue import FurnitureModel
from mobius_seg.data.scene3d import ModelScene
from mobius_seg.errors import InputError
from mobius_seg.files import atomic_path

SUPERSAMPLING = 2
MIN_COVER = 0.02  # of the square around the object; below it a view shows next to nothing
WEBP_QUALITY = 88
FLAT = 0.2  # height over footprint below which a model is seen from above (rugs, plates)
THIN = 0.3  # depth over width below which a model is seen from the front (doors, switches)


def render_all(
    models: Sequence[FurnitureModel],
    folder: Path,
    *,
    views: int = 24,
    max_side: int = 192,
    seed: int = 0,
    processes: int = 2,
) -> list[tuple[str, str]]:
    """Render every model that is not rendered yet into ``folder/<key>.zip``.

    Args:
        models: what to render.
        folder: where the results are kept.
        views: viewpoints a model.
        max_side: longest side of a cut-out, pixels.
        seed: fixes viewpoints and light together with the model's key.
        processes: how many models are rendered at once.

    Returns:
        (key, reason) of every model that gave no usable views; the others go on.

    Raises:
        InputError: nothing can be rendered on this machine.
    """
    todo = [m for m in models if not is_rendered(folder, m.key, views, max_side)]
    work = partial(_render_to_file, folder=folder, views=views, max_side=max_side, seed=seed)
    failures: list[tuple[str, str]] = []
    lost = _render_group(work, todo, processes, failures)
    if todo and len(lost) == len(todo) > 1:
        raise InputError(
            "rendering: VTK cannot draw without a display here; install a software OpenGL "
            "(Debian: libegl1 and libgl1-mesa-dri, or libosmesa6)"
        )
    for model in lost:  # a crash takes its pool along: go on one by one
        if _render_group(work, [model], 1, failures):
            failures.append((model.key, "the renderer crashed"))
    return failures


def is_rendered(folder: Path, key: str, views: int, max_side: int) -> bool:
    """Whether ``folder`` holds the finished zip of ``views`` views of ``key`` at ``max_side``."""
    path = folder / f"{key}.zip"
    if not path.exists():
        return False
    with zipfile.ZipFile(path) as stream:
        return stream.comment == _comment(views, max_side)


def read_views(folder: Path, key: str) -> list[bytes]:
    """WebP bytes of the views of ``key``, in order; empty when it gave none."""
    path = folder / f"{key}.zip"
    if not path.exists():
        return []
    with zipfile.ZipFile(path) as stream:
        return [stream.read(name) for name in sorted(stream.namelist())]


def render_model(
    model: FurnitureModel, views: int, max_side: int, seed: int
) -> list[NDArray[np.uint8]]:
    """Draw one model from ``views`` viewpoints.

    Args:
        model: what to draw.
        views: how many viewpoints.
        max_side: longest side of a cut-out, pixels.
        seed: fixes viewpoints and light together with the model's key.

    Returns:
        RGBA cut-outs uint8 [h, w, 4], tightly cropped, alpha not premultiplied; views that show
        next to nothing are left out.

    Raises:
        ValueError: the file has no geometry.
    """
    rng = np.random.default_rng([seed, crc32(model.key.encode())])
    scene = ModelScene(model, int(max_side * 1.25) * SUPERSAMPLING)
    pictures = []
    for azimuth, elevation in viewpoints(model, views, rng):
        scene.place_camera(azimuth, elevation, rng)
        scene.light(rng)
        picture = crop(downsample(scene.draw(), SUPERSAMPLING), max_side)
        if picture is not None:
            pictures.append(picture)
    return pictures


def viewpoints(
    model: FurnitureModel, views: int, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Choose jittered (azimuth, elevation) pairs in degrees; azimuth 0 faces the model's front.

    Three of four look at the front half, since furniture stands with its back to a wall; thin
    models are seen from the front only, flat ones from above. Vehicles, animals and people are seen
    from all around.
    """
    width, height, depth = model.size_cm
    if depth / width < THIN and height > depth:
        spans = [(-65.0, 65.0)]
    elif model.category in ("Vehicles", "Characters", "Exterior"):
        spans = [(-180.0, 180.0)]
    else:
        spans = [(-80.0, 80.0), (-80.0, 80.0), (-80.0, 80.0), (80.0, 280.0)]
    flat = height / max(min(width, depth), 1e-6) < FLAT
    levels = [(28.0, 75.0)] if flat else [(-4.0, 14.0), (10.0, 32.0), (25.0, 55.0)]
    chosen = []
    per_span = math.ceil(views / len(spans))
    for index in range(views):
        low, high = spans[index % len(spans)]
        slot = (index // len(spans) + rng.random()) / per_span
        bottom, top = levels[int(rng.integers(len(levels)))]
        chosen.append((low + (high - low) * slot, float(rng.uniform(bottom, top))))
    order = rng.permutation(views)
    return [chosen[int(i)] for i in order]


def downsample(premultiplied_HW4: NDArray[np.uint8], factor: int) -> NDArray[np.float32]:
    """Average blocks of ``factor`` x ``factor`` pixels: float32 RGBA in 0..1, premultiplied."""
    height, width, channels = premultiplied_HW4.shape
    total = np.zeros((height // factor, width // factor, channels), np.float32)
    for row in range(factor):
        for column in range(factor):
            total += premultiplied_HW4[row::factor, column::factor]
    total /= 255.0 * factor**2
    return total


def crop(premultiplied_HW4: NDArray[np.float32], max_side: int) -> NDArray[np.uint8] | None:
    """Crop to the visible part, undo the premultiplication, limit the longest side.

    Args:
        premultiplied_HW4: RGBA in 0..1 with colour already multiplied by alpha.
        max_side: longest side of the result, pixels.

    Returns:
        RGBA uint8 [h, w, 4], or None when next to nothing is visible.
    """
    alpha = premultiplied_HW4[..., 3]
    rows, columns = np.flatnonzero((alpha > 0.1).any(1)), np.flatnonzero((alpha > 0.1).any(0))
    if not len(rows) or not len(columns):
        return None
    part = premultiplied_HW4[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if float(part[..., 3].sum()) < MIN_COVER * max(part.shape[:2]) ** 2:
        return None
    colour = part[..., :3] / np.maximum(part[..., 3:], 1e-4)
    rgba = np.concatenate([colour, part[..., 3:]], -1)
    picture = (np.clip(rgba, 0, 1) * 255 + 0.5).astype(np.uint8)
    return shrink(picture, max_side)


def shrink(picture: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """Scale RGBA uint8 [h, w, 4] down so that its longest side is at most ``max_side`` pixels."""
    height, width = picture.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def encode(picture: NDArray[np.uint8], quality: int = WEBP_QUALITY) -> bytes:
    """Encode RGB or RGBA uint8 as WebP bytes."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", quality=quality, method=3)
    return stream.getvalue()


def _render_group(
    work: Callable[[FurnitureModel], str | None],
    group: Sequence[FurnitureModel],
    processes: int,
    failures: list[tuple[str, str]],
) -> list[FurnitureModel]:
    """Render ``group`` in fresh processes; returns the models lost to a crashed process."""
    lost: list[FurnitureModel] = []
    if not group:
        return lost
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        jobs = {pool.submit(work, model): model for model in group}
        try:
            for job in tqdm(as_completed(jobs), "render", len(jobs), unit="model"):
                try:
                    reason = job.result()
                except BrokenProcessPool:
                    lost.append(jobs[job])
                    continue
                if reason is not None:
                    failures.append((jobs[job].key, reason))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)  # what has not begun never will
            raise
    return lost


def _render_to_file(
    model: FurnitureModel, folder: Path, views: int, max_side: int, seed: int
) -> str | None:
    """Render one model into its zip; returns why it is unusable, or None when it is fine."""
    try:
        pictures = render_model(model, views, max_side, seed)
    except (ValueError, RuntimeError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    if len(pictures) < views // 2:
        return f"only {len(pictures)} of {views} views show the object"
    with (
        atomic_path(folder / f"{model.key}.zip") as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as stream,
    ):
        for index, picture in enumerate(pictures):
            stream.writestr(f"{index:03d}.webp", encode(picture))
        stream.comment = _comment(views, max_side)
    return None


def _comment(views: int, max_side: int) -> bytes:
    """What a finished zip says about itself."""
    return f"views={views} side={max_side}".encode()
