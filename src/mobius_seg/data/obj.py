"""Reading Wavefront OBJ models and their materials into numpy arrays.

VTK ships an importer, but it gives up on the texture coordinates of a whole file when one face has
none, and shades models without normals flat; most furniture models have one or the other.
Legend: V vertices, F faces, K face corners.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SMOOTH_DEGREES = 50.0  # edges sharper than this stay edges


@dataclass(frozen=True, kw_only=True)
class Material:
    """How a surface looks.

    Attributes:
        colour: diffuse RGB, 0..1; white where a texture gives the colour.
        opacity: 1 is solid.
        texture: picture file, None for a plain surface.
    """

    colour: tuple[float, float, float] = (0.8, 0.8, 0.8)
    opacity: float = 1.0
    texture: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """All faces of one material. Every face corner is a point of its own.

    Attributes:
        material: how it looks.
        points: float32 [K, 3] corner positions.
        normals: float32 [K, 3] unit corner normals, smooth except at sharp edges.
        texture_coordinates: float32 [K, 2] texture coordinates, None when some corner has none.
        face_starts: int64 [F + 1]: face f has the corners from face_starts[f] to face_starts[f+1].
    """

    material: Material
    points: NDArray[np.float32]
    normals: NDArray[np.float32]
    texture_coordinates: NDArray[np.float32] | None
    face_starts: NDArray[np.int64]


class _Faces:
    """Faces of one material while a file is read."""

    def __init__(self) -> None:
        self.vertices: list[int] = []
        self.textures: list[int] = []
        self.lengths: list[int] = []


def read_obj(path: Path) -> list[Part]:
    """Read an OBJ file, one part a material.

    Args:
        path: the file; its ``mtllib`` is looked for beside it.

    Raises:
        ValueError: the file has no face, or a face names a vertex that does not exist.
        OSError: the file cannot be read.
    """
    vertices: list[tuple[float, ...]] = []
    textures: list[tuple[float, ...]] = []
    materials: dict[str, Material] = {}
    faces: dict[str, _Faces] = {}
    current = faces.setdefault("", _Faces())
    for line in path.read_text(encoding="latin-1").replace("\\\n", " ").splitlines():
        keyword, _, rest = line.strip().partition(" ")
        if keyword == "v":
            vertices.append(tuple(map(float, rest.split()[:3])))
        elif keyword == "vt":
            textures.append(tuple(map(float, rest.split()[:2])))
        elif keyword == "f":
            _read_face(rest, current, len(vertices), len(textures))
        elif keyword == "usemtl":
            current = faces.setdefault(rest.strip(), _Faces())
        elif keyword == "mtllib":
            materials |= read_materials(path.parent / rest.strip())
    vertices_V3 = np.array(vertices, np.float64).reshape(-1, 3)
    textures_2 = np.array(textures, np.float32).reshape(-1, 2)
    used = [(name, group) for name, group in faces.items() if group.lengths]
    if not used:
        raise ValueError("no faces")
    if any(not 0 <= v < len(vertices) for _, group in used for v in group.vertices):
        raise ValueError("a face names a vertex that does not exist")
    normals = _corner_normals(vertices_V3, [group for _, group in used])
    return [
        _part(materials.get(name, Material()), group, vertices_V3, textures_2, corner_normals)
        for (name, group), corner_normals in zip(used, normals, strict=True)
    ]


def read_materials(path: Path) -> dict[str, Material]:
    """Read a material library; a missing file gives none, a missing texture a plain surface."""
    if not path.exists():
        return {}
    materials: dict[str, Material] = {}
    name = ""
    for line in path.read_text(encoding="latin-1").splitlines():
        keyword, _, rest = line.strip().partition(" ")
        values = rest.split()
        if keyword == "newmtl":
            name = rest.strip()
            materials[name] = Material()
        elif name and keyword == "Kd" and len(values) == 3:
            red, green, blue = map(float, values)
            materials[name] = replace(materials[name], colour=(red, green, blue))
        elif name and keyword == "d" and values:
            materials[name] = replace(materials[name], opacity=float(values[-1]))
        elif name and keyword == "map_Kd" and values:
            texture = path.parent / rest.strip()
            if texture.is_file():
                materials[name] = replace(materials[name], texture=texture)
    return {
        key: replace(material, colour=(1.0, 1.0, 1.0)) if material.texture else material
        for key, material in materials.items()
    }


def _read_face(text: str, faces: _Faces, vertices: int, textures: int) -> None:
    corners = text.split()
    if len(corners) < 3:
        return  # stray lines and points show nothing
    for corner in corners:
        fields = corner.split("/")
        index = int(fields[0])
        faces.vertices.append(index - 1 if index > 0 else vertices + index)
        index = int(fields[1]) if len(fields) > 1 and fields[1] else 0
        faces.textures.append(index - 1 if index >= 0 else textures + index)
    faces.lengths.append(len(corners))


def _corner_normals(
    vertices_V3: NDArray[np.float64], groups: list[_Faces]
) -> list[NDArray[np.float32]]:
    """Area-weighted vertex normals over all groups; a corner at a sharp edge keeps its face's."""
    at_vertex_V3 = np.zeros_like(vertices_V3)
    face_normals = []
    for group in groups:
        index, lengths = np.array(group.vertices), np.array(group.lengths)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        following = np.arange(1, len(index) + 1)
        following[starts + lengths - 1] = starts  # the last corner is followed by the first
        points = vertices_V3[index]
        # Newell's method: the sum of the edges' cross products is the normal, as long as the area
        area_F3 = np.add.reduceat(np.cross(points, points[following]), starts)
        corner_K3 = np.repeat(area_F3, lengths, 0)
        np.add.at(at_vertex_V3, index, corner_K3)
        face_normals.append(corner_K3)
    smooth_V3 = _unit(at_vertex_V3)
    limit = math.cos(math.radians(SMOOTH_DEGREES))
    result = []
    for group, corner_K3 in zip(groups, face_normals, strict=True):
        flat, smooth = _unit(corner_K3), smooth_V3[np.array(group.vertices)]
        sharp = (flat * smooth).sum(1, keepdims=True) < limit
        result.append(np.where(sharp, flat, smooth).astype(np.float32))
    return result


def _unit(vectors_N3: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(vectors_N3, axis=1, keepdims=True)
    unit: NDArray[np.float64] = vectors_N3 / np.maximum(lengths, 1e-12)
    return unit


def _part(
    material: Material,
    faces: _Faces,
    vertices_V3: NDArray[np.float64],
    textures_2: NDArray[np.float32],
    normals_K3: NDArray[np.float32],
) -> Part:
    texture_index = np.array(faces.textures)
    has_texture = len(textures_2) > 0 and bool(
        ((texture_index >= 0) & (texture_index < len(textures_2))).all()
    )
    return Part(
        material=material,
        points=vertices_V3[np.array(faces.vertices)].astype(np.float32),
        normals=normals_K3,
        texture_coordinates=textures_2[texture_index] if has_texture else None,
        face_starts=np.concatenate([[0], np.cumsum(faces.lengths)]).astype(np.int64),
    )
