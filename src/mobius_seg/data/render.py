"""Rendering textured models off screen, from many viewpoints and in varied light.

VTK draws with its own software OpenGL, so no display and no graphics card is needed. Every model
is drawn at twice the wanted size and averaged down, which gives a smooth alpha edge; views are kept
as WebP in one zip a model, so that an interrupted run goes on where it stopped.
"""

import io
import math
import multiprocessing
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from mobius_seg.data.catalogue import FurnitureModel
from mobius_seg.data.obj import read_obj
from mobius_seg.files import atomic_path

SUPERSAMPLING = 2
MIN_OPACITY = 0.6  # glass stays visible enough for its outline to be learnt
MAX_TEXTURE = 512
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
    """
    todo = [m for m in models if not is_rendered(folder, m.key, views, max_side)]
    failures: list[tuple[str, str]] = []
    for batch_processes in (processes, 1):  # a crash takes its pool along: go on one by one
        left: list[FurnitureModel] = []
        groups = [todo] if batch_processes > 1 else [[model] for model in todo]
        for group in groups:
            left += _render_group(
                group, folder, views, max_side, seed, batch_processes, failures, bool(left)
            )
        todo = left
    failures += [(model.key, "the renderer crashed") for model in todo]
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
    scene = _Scene(model, int(max_side * 1.25) * SUPERSAMPLING)
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
    group: Sequence[FurnitureModel],
    folder: Path,
    views: int,
    max_side: int,
    seed: int,
    processes: int,
    failures: list[tuple[str, str]],
    quiet: bool,
) -> list[FurnitureModel]:
    """Render ``group`` in fresh processes; returns the models lost to a crashed process."""
    lost: list[FurnitureModel] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        jobs: dict[Future[str | None], FurnitureModel] = {
            pool.submit(_render_to_file, model, folder, views, max_side, seed): model
            for model in group
        }
        finished: Iterable[Future[str | None]] = as_completed(jobs)
        for job in tqdm(finished, "render", len(jobs), unit="model", disable=quiet or not group):
            try:
                reason = job.result()
            except BrokenProcessPool:
                lost.append(jobs[job])
                continue
            if reason is not None:
                failures.append((jobs[job].key, reason))
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


class _Scene:
    """A model, a camera and lights in an off-screen window (``side`` x ``side`` pixels)."""

    def __init__(self, model: FurnitureModel, side: int) -> None:
        # Imported here: vtk takes a second to import and only rendering needs it.
        from vtkmodules import vtkRenderingOpenGL2  # noqa: F401  (registers the back end)
        from vtkmodules.vtkRenderingCore import vtkRenderer, vtkRenderWindow

        self.renderer = vtkRenderer()
        self.renderer.SetBackgroundAlpha(0.0)
        self.renderer.AutomaticLightCreationOff()
        self.window = vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetAlphaBitPlanes(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(side, side)
        self.window.AddRenderer(self.renderer)
        self.actors: list[Any] = []
        self._load(model)
        self._fit(model)

    def _load(self, model: FurnitureModel) -> None:
        """Rotate the model as its catalogue says and add one actor a material."""
        from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
        from vtkmodules.vtkCommonCore import vtkPoints
        from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData
        from vtkmodules.vtkRenderingCore import vtkActor, vtkPolyDataMapper

        rotation = np.array(model.rotation, np.float32).reshape(3, 3)
        for part in read_obj(model.path):
            points = vtkPoints()
            points.SetData(numpy_to_vtk(part.points @ rotation.T, deep=True))
            corners = np.arange(len(part.points), dtype=np.int64)
            cells = vtkCellArray()
            cells.SetData(
                numpy_to_vtkIdTypeArray(part.face_starts, deep=True),
                numpy_to_vtkIdTypeArray(corners, deep=True),
            )
            surface = vtkPolyData()
            surface.SetPoints(points)
            surface.SetPolys(cells)
            data = surface.GetPointData()
            data.SetNormals(numpy_to_vtk(part.normals @ rotation.T, deep=True))
            mapper = vtkPolyDataMapper()
            actor = vtkActor()
            if part.texture_coordinates is not None:
                data.SetTCoords(numpy_to_vtk(part.texture_coordinates, deep=True))
                if part.material.texture is not None:
                    actor.SetTexture(self._texture(part.material.texture))
                    actor.ForceOpaqueOn()
            mapper.SetInputData(surface)
            actor.SetMapper(mapper)
            look = actor.GetProperty()
            look.SetColor(*part.material.colour)
            look.SetOpacity(max(part.material.opacity, MIN_OPACITY))
            look.SetAmbient(0.12)
            look.SetSpecular(0.15)
            look.SetSpecularPower(20)
            self.renderer.AddActor(actor)
            self.actors.append(actor)

    def _texture(self, path: Path) -> Any:
        """Load a picture as a texture, at most ``MAX_TEXTURE`` pixels a side."""
        from vtkmodules.util.numpy_support import numpy_to_vtk
        from vtkmodules.vtkCommonDataModel import vtkImageData
        from vtkmodules.vtkRenderingCore import vtkTexture

        with Image.open(path) as picture:
            has_alpha = "A" in picture.getbands() or "transparency" in picture.info
            picture = picture.convert("RGBA" if has_alpha else "RGB")
            picture.thumbnail((MAX_TEXTURE, MAX_TEXTURE))
            pixels = np.asarray(picture)[::-1]  # VTK counts rows from below
        if has_alpha:  # a leaf is there or not: no sorting of half-transparent faces
            pixels = np.where(np.arange(4) == 3, (pixels > 127) * np.uint8(255), pixels)
        image = vtkImageData()
        image.SetDimensions(pixels.shape[1], pixels.shape[0], 1)
        flat = np.ascontiguousarray(pixels).reshape(-1, pixels.shape[2])
        image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
        texture = vtkTexture()
        texture.SetInputData(image)
        texture.InterpolateOn()
        texture.MipmapOn()
        texture.RepeatOn()
        return texture

    def _fit(self, model: FurnitureModel) -> None:
        """Scale to the catalogue's size in cm and centre at the origin."""
        from vtkmodules.vtkCommonTransforms import vtkTransform

        low, high = self._bounds()
        scale = [s / max(b - a, 1e-9) for a, b, s in zip(low, high, model.size_cm, strict=True)]
        scale = [min(s, 5 * min(scale)) for s in scale]  # a paper-thin side must not explode
        fitted = vtkTransform()
        fitted.Scale(*scale)
        fitted.Translate(*(-(a + b) / 2 for a, b in zip(low, high, strict=True)))
        for actor in self.actors:
            actor.SetUserTransform(fitted)
        low, high = self._bounds()
        self.radius = 0.5 * math.dist(low, high)

    def _bounds(self) -> tuple[list[float], list[float]]:
        bounds = np.array([actor.GetBounds() for actor in self.actors])
        return bounds[:, 0::2].min(0).tolist(), bounds[:, 1::2].max(0).tolist()

    def place_camera(self, azimuth: float, elevation: float, rng: np.random.Generator) -> None:
        """Look at the centre from (azimuth, elevation) degrees; lens and roll are drawn."""
        camera = self.renderer.GetActiveCamera()
        angle = float(rng.uniform(18, 45))
        distance = 1.02 * self.radius / math.sin(math.radians(angle / 2))
        a, e = math.radians(azimuth), math.radians(elevation)
        direction = (math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e))
        camera.SetFocalPoint(0, 0, 0)
        camera.SetPosition(*(distance * d for d in direction))
        camera.SetViewUp(0, 1, 0)
        camera.SetViewAngle(angle)
        camera.SetRoll(camera.GetRoll() + float(rng.normal(0, 2)))
        self.renderer.ResetCameraClippingRange()

    def light(self, rng: np.random.Generator) -> None:
        """One key light from above, one weak fill from the camera; colour from warm to cool."""
        from vtkmodules.vtkRenderingCore import vtkLight

        self.renderer.RemoveAllLights()
        warmth = float(rng.uniform(-1, 1))
        tint = (1 + 0.10 * warmth, 1.0, 1 - 0.14 * warmth)
        azimuth, elevation = rng.uniform(-80, 80), rng.uniform(15, 80)
        total = float(rng.uniform(0.85, 1.2))
        key_share = float(rng.uniform(0.4, 0.75))
        for direction, share in (((azimuth, elevation), key_share), ((0.0, 5.0), 1 - key_share)):
            light = vtkLight()
            light.SetLightTypeToCameraLight()
            a, e = math.radians(direction[0]), math.radians(direction[1])
            light.SetPosition(math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e))
            light.SetFocalPoint(0, 0, 0)
            light.SetIntensity(total * share)
            light.SetColor(*tint)
            self.renderer.AddLight(light)

    def draw(self) -> NDArray[np.uint8]:
        """Render: RGBA uint8 [side, side, 4], colour premultiplied by alpha, top row first."""
        from vtkmodules.util.numpy_support import vtk_to_numpy
        from vtkmodules.vtkRenderingCore import vtkWindowToImageFilter

        self.window.Render()
        grab = vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.SetInputBufferTypeToRGBA()
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        flat: Any = vtk_to_numpy(image.GetPointData().GetScalars())
        return np.ascontiguousarray(flat.reshape(height, width, 4)[::-1])
