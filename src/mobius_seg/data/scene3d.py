"""One textured model before a camera, drawn by VTK without a display."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobius_seg.data.catalogue import FurnitureModel
from mobius_seg.data.obj import read_obj

MIN_OPACITY = 0.6  # glass stays visible enough for its outline to be learnt
MAX_TEXTURE = 512  # pixels a side; cut-outs are smaller than that


class ModelScene:
    """A model, a camera and lights in an off-screen window.

    The model is rotated and scaled as its catalogue says and centred at the origin.
    """

    def __init__(self, model: FurnitureModel, side: int) -> None:
        """Load ``model`` into a window of ``side`` x ``side`` pixels.

        Raises:
            ValueError: the file has no geometry.
            OSError: a file cannot be read.
        """
        # Imported here: vtk takes a second to import and only rendering needs it.
        self.window = _new_window()  # first: its import registers what the renderer is made of
        from vtkmodules.vtkRenderingCore import vtkRenderer

        self.renderer = vtkRenderer()
        self.renderer.SetBackgroundAlpha(0.0)
        self.renderer.AutomaticLightCreationOff()
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

        with Image.open(path) as opened:
            has_alpha = "A" in opened.getbands() or "transparency" in opened.info
            picture = opened.convert("RGBA" if has_alpha else "RGB")
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


def _new_window() -> Any:
    """A window; VTK looks for a display first and says on stderr that there is none: not here."""
    from vtkmodules import vtkRenderingOpenGL2  # noqa: F401  (registers the back end)
    from vtkmodules.vtkCommonCore import vtkLogger
    from vtkmodules.vtkRenderingCore import vtkRenderWindow

    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    return vtkRenderWindow()
