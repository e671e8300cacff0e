"""Drawing planned rooms with Blender's path tracer, with exact masks.

Blender comes as the module ``bpy`` (extra ``rooms``), which needs one Python version exactly; it is
imported when a renderer is made. A first pass of one ray a pixel, through its middle, tells which
thing every pixel shows: so masks are exact and disjoint. What shows too little is taken out of the
room, and then the picture is drawn. Legend: S side of the picture, M things.
"""

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobius_seg.data import room_geometry as geometry
from mobius_seg.data.catalogue import FurnitureModel
from mobius_seg.data.room_layout import Placement, Tint
from mobius_seg.data.room_stage import build_stage, make_camera, paint
from mobius_seg.data.rooms import RoomPlan
from mobius_seg.errors import InputError

MIN_PIXELS = 60
MIN_SHARE = 0.2
LARGE_SHARE = 0.05
"""Of the picture: what takes so much of it counts, however little of the thing that is."""
CLEANINGS = 3

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class DrawnRoom:
    """A picture and what is on it.

    Attributes:
        image: RGB uint8 [S, S, 3].
        placements: the M things that show.
        masks: bool [M, S, S], disjoint.
        full_areas: [M], pixels were nothing in front of them and the picture without borders.
        crowd: [M], whether it shows too little to be asked for but had to stay, since others that
            show stand on it.
    """

    image: NDArray[np.uint8]
    placements: tuple[Placement, ...]
    masks: NDArray[np.bool_]
    full_areas: tuple[float, ...]
    crowd: tuple[bool, ...]

    @property
    def shown(self) -> int:
        """How many things can be asked for."""
        return len(self.crowd) - sum(self.crowd)


def import_blender() -> Any:
    """The module ``bpy``.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("bpy")
    except ModuleNotFoundError:
        raise InputError(
            "bpy (Blender as a module) is not installed, which drawing rooms needs; install the"
            " extra 'rooms' under Python 3.11: pip install 'mobius-seg[rooms]', in a clone"
            " pip install -e '.[rooms]'"
        ) from None


class RoomRenderer:
    """Draws rooms one after the other in one Blender.

    Args:
        models: by key.
        textures: pictures for floors and walls, by the number that plans give.
        size: side of the pictures in pixels.
        samples: light paths a pixel.
        threads: CPU threads; None takes all cores.

    Raises:
        InputError: Blender is not installed.
    """

    def __init__(
        self,
        models: Mapping[str, FurnitureModel],
        textures: Sequence[Path],
        *,
        size: int,
        samples: int,
        threads: int | None = None,
    ) -> None:
        """See the class."""
        self._bpy = import_blender()
        self._models, self._textures = models, textures
        self._size, self._samples = size, samples
        self._bpy.ops.wm.read_factory_settings(use_empty=True)
        scene = self._bpy.context.scene
        scene.render.engine = "CYCLES"
        scene.cycles.device = "CPU"
        scene.render.resolution_x = scene.render.resolution_y = size
        if threads is not None:
            scene.render.threads_mode, scene.render.threads = "FIXED", threads
        cycles = scene.cycles
        cycles.use_adaptive_sampling = False
        cycles.use_light_tree = False  # for a handful of lamps it costs a quarter and gains nothing
        cycles.diffuse_bounces, cycles.glossy_bounces = 2, 2
        cycles.transmission_bounces, cycles.transparent_max_bounces = 4, 8
        cycles.caustics_reflective = cycles.caustics_refractive = False
        cycles.sample_clamp_indirect = 4.0
        layer = self._bpy.context.view_layer
        layer.use_pass_object_index = True
        layer.pass_alpha_threshold = 0.1  # panes count, the clear part of a leaf's picture does not

    @property
    def version(self) -> str:
        """Of Blender, which scenes depend on too."""
        return f"Blender {self._bpy.app.version_string}"

    def draw(self, plan: RoomPlan) -> DrawnRoom:
        """Draw one scene.

        Args:
            plan: of :func:`mobius_seg.data.rooms.plan_scene`.

        Returns:
            The picture with masks; things may be fewer than planned.
        """
        with _quiet():
            self._clear()
            build_stage(self._bpy, plan, self._textures)
            make_camera(self._bpy, plan.camera)
            props = self._furnish(plan)
            areas = [
                geometry.silhouette_area(plan.camera, prop.triangles, self._size) for prop in props
            ]
            with tempfile.TemporaryDirectory() as folder:
                labels, crowd = self._clean(props, areas, Path(folder))
                colours = self._picture(plan, Path(folder))
        rows = [row for row in range(len(props)) if (labels == row + 1).any()]
        return DrawnRoom(
            image=develop(colours, plan.exposure, plan.contrast),
            placements=tuple(props[row].placement for row in rows),
            masks=np.array([labels == row + 1 for row in rows], bool).reshape(-1, *labels.shape),
            full_areas=tuple(areas[row] for row in rows),
            crowd=tuple(row in crowd for row in rows),
        )

    def _clear(self) -> None:
        """Take everything of the scene before away."""
        data = self._bpy.data
        for group in ("objects", "meshes", "materials", "images", "lights", "cameras", "worlds"):
            data.batch_remove(list(getattr(data, group)))

    def _furnish(self, plan: RoomPlan) -> list["_Prop"]:
        """Load and place the things; what cannot stand where it was planned is left out."""
        kept: dict[int, _Prop] = {}
        loaded: dict[str, _Loaded] = {}
        for number, planned in enumerate(plan.placements):
            key = planned.thing.key
            if key not in loaded:
                loaded[key] = self._load(self._models[key], planned.tint)
            placement, source = planned, loaded[key]
            if planned.on is not None:
                if planned.on not in kept:
                    continue
                height = geometry.settle(planned, kept[planned.on].triangles)
                if height is None:
                    continue
                x, y, _ = planned.position
                placement = replace(planned, position=(x, y, height))
            matrix = geometry.place_matrix(placement)
            parts = []
            for mesh in source.meshes:
                part = self._bpy.data.objects.new(f"{key}-{number}", mesh)
                part.matrix_world = (matrix @ source.fit).T.tolist()  # Blender takes columns
                part.pass_index = len(kept) + 1
                self._bpy.context.scene.collection.objects.link(part)
                parts.append(part)
            carrier = list(kept).index(planned.on) if planned.on is not None else None
            kept[number] = _Prop(
                placement=placement,
                parts=parts,
                carrier=carrier,
                triangles=geometry.transform(matrix, source.triangles.reshape(-1, 3)).reshape(
                    -1, 3, 3
                ),
            )
        return list(kept.values())

    def _load(self, model: FurnitureModel, tint: Tint | None) -> "_Loaded":
        """Import a model, as one mesh where the importer allows it."""
        data = self._bpy.data
        before = set(data.objects)
        self._bpy.ops.wm.obj_import(
            filepath=str(model.path),
            forward_axis="Y",  # as in the file: what is up is settled with the size
            up_axis="Z",
            use_split_objects=False,
            use_split_groups=False,
        )
        new = [thing for thing in data.objects if thing not in before]
        meshes = [thing.data for thing in new if thing.type == "MESH" and thing.data.polygons]
        data.batch_remove(new)
        if not meshes:
            raise ValueError(f"{model.path}: no faces")
        vertices, triangles = [], []
        for mesh in meshes:
            points = np.empty(len(mesh.vertices) * 3, np.float32)
            mesh.vertices.foreach_get("co", points)
            mesh.calc_loop_triangles()
            corners = np.empty(len(mesh.loop_triangles) * 3, np.int32)
            mesh.loop_triangles.foreach_get("vertices", corners)
            points_V3 = points.reshape(-1, 3).astype(np.float64)
            vertices.append(points_V3[np.unique(corners)])
            triangles.append(points_V3[corners])
            for material in mesh.materials:
                paint(material, tint)
        fit = geometry.fit_matrix(np.concatenate(vertices), model)
        return _Loaded(
            meshes=meshes,
            fit=fit,
            triangles=geometry.transform(fit, np.concatenate(triangles)).reshape(-1, 3, 3),
        )

    def _clean(
        self, props: Sequence["_Prop"], areas: Sequence[float], folder: Path
    ) -> tuple[NDArray[np.int64], set[int]]:
        """Take out what shows too little; labels [S, S] (0 nothing, k thing k - 1) and the rest."""
        poor: set[int] = set()
        labels = self._labels(folder)
        for _ in range(CLEANINGS):
            visible = np.bincount(labels.ravel(), minlength=len(props) + 1)[1:]
            poor = {
                row
                for row, pixels in enumerate(visible)
                if pixels and not shows(int(pixels), areas[row], self._size)
            }
            carrying = {
                prop.carrier for row, prop in enumerate(props) if visible[row] and row not in poor
            }
            leaving = poor - carrying
            if not leaving:
                break
            for row, prop in enumerate(props):
                if row in leaving or prop.carrier in leaving:
                    for part in prop.parts:
                        part.hide_render = True
            labels = self._labels(folder)
        left = set(np.unique(labels).tolist())
        return labels, {row for row in poor if row + 1 in left}

    def _labels(self, folder: Path) -> NDArray[np.int64]:
        """Which thing every pixel shows, by its middle: [S, S], 0 where none."""
        scene = self._bpy.context.scene
        scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.max_bounces = 1, False, 0
        scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BOX", 0.01
        scene.use_nodes = True
        nodes = scene.node_tree.nodes
        nodes.clear()
        layers = nodes.new("CompositorNodeRLayers")
        output = nodes.new("CompositorNodeOutputFile")
        output.base_path = str(folder)
        output.format.file_format, output.format.color_depth = "OPEN_EXR", "32"
        output.file_slots[0].path = "index"
        scene.node_tree.links.new(layers.outputs["IndexOB"], output.inputs[0])
        scene.frame_set(1)
        self._bpy.ops.render.render()
        scene.use_nodes = False
        return np.rint(self._read(folder / "index0001.exr")[..., 0]).astype(np.int64)

    def _picture(self, plan: RoomPlan, folder: Path) -> Array:
        """The light that reaches the camera, linear RGB [S, S, 3]."""
        scene = self._bpy.context.scene
        scene.cycles.samples, scene.cycles.use_denoising = self._samples, True
        scene.cycles.denoiser, scene.cycles.denoising_quality = "OPENIMAGEDENOISE", "BALANCED"
        scene.cycles.max_bounces = 4
        scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BLACKMAN_HARRIS", 1.5
        scene.cycles.seed = plan.render_seed
        scene.render.image_settings.file_format = "OPEN_EXR"
        scene.render.image_settings.color_depth = "32"
        scene.render.filepath = str(folder / "picture.exr")
        self._bpy.ops.render.render(write_still=True)
        return self._read(folder / "picture.exr")[..., :3]

    def _read(self, path: Path) -> Array:
        """Pixels of an EXR file, top row first, [S, S, 4]."""
        image = self._bpy.data.images.load(str(path))
        image.colorspace_settings.name = "Non-Color"
        pixels = np.empty(self._size * self._size * 4, np.float32)
        image.pixels.foreach_get(pixels)
        self._bpy.data.images.remove(image)
        return pixels.reshape(self._size, self._size, 4)[::-1].astype(np.float64)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Blender's own code writes to standard output off it."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """A model in Blender."""

    meshes: list[Any]
    fit: Array
    triangles: Array


@dataclass(frozen=True, kw_only=True)
class _Prop:
    """A thing in the room; ``carrier`` is the row of what it stands on."""

    placement: Placement
    parts: list[Any]
    carrier: int | None
    triangles: Array


def shows(pixels: int, full_area: float, size: int) -> bool:
    """Whether enough of a thing is visible for it to be asked for.

    Args:
        pixels: visible ones.
        full_area: pixels of the whole thing.
        size: side of the picture.
    """
    large = pixels >= LARGE_SHARE * size * size
    least = MIN_PIXELS * min(1.0, (size / 320) ** 2)
    return pixels >= least and (large or pixels >= MIN_SHARE * full_area)


def develop(colours_SS3: Array, exposure: float, contrast: float) -> NDArray[np.uint8]:
    """From light to a picture, as a camera on automatic does: RGB uint8 [S, S, 3].

    Args:
        colours_SS3: linear RGB.
        exposure: mean brightness wanted.
        contrast: exponent of the tone curve.
    """
    light = np.maximum(np.nan_to_num(colours_SS3), 0)
    grey = light @ (0.2126, 0.7152, 0.0722)
    limited = np.minimum(grey, np.quantile(grey, 0.97))
    middle = 0.5 * limited.mean() + 0.5 * np.exp(np.log(limited + 1e-4).mean())
    scaled = light * (exposure / max(float(middle), 1e-6))
    curved = 0.18 * (scaled / 0.18) ** contrast
    shoulder = curved * (1 + curved / 16) / (1 + curved)  # Reinhard et al. 2002, white at 4
    low, high = 12.92 * shoulder, 1.055 * np.maximum(shoulder, 1e-9) ** (1 / 2.4) - 0.055
    encoded = np.where(shoulder <= 0.0031308, low, high)
    return np.asarray(np.clip(encoded, 0, 1) * 255 + 0.5).astype(np.uint8)
