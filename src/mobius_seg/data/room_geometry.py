"""Meshes of rooms in numpy: their size, what stands on them, how much of a picture they take.

Legend: V vertices, T triangles, P points.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mobius_seg.data.catalogue import FurnitureModel
from mobius_seg.data.room_camera import NEAR, Camera
from mobius_seg.data.room_layout import Placement

Array = NDArray[np.float64]

SINK, RISE = 0.12, 0.06
"""Metres below and above the catalogue's height that a carrier's surface is looked for."""
STEADY = 0.03  # metres between the points that a thing rests on


def fit_matrix(vertices_V3: Array, model: FurnitureModel) -> Array:
    """From a model file's coordinates to metres: 4x4.

    The model is turned as its catalogue says, scaled to the catalogue's size and put with the
    middle of its base at the origin. Files have y up and face +z; here z is up and things face -y.
    """
    rotation = np.array(model.rotation, np.float64).reshape(3, 3)
    turned = vertices_V3 @ rotation.T
    low, high = turned.min(0), turned.max(0)
    scale = np.array(model.size_cm) / 100 / np.maximum(high - low, 1e-9)
    scale = np.minimum(scale, 5 * scale.min())  # a paper-thin side must not explode
    base = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    axes = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    matrix = np.eye(4)
    matrix[:3, :3] = axes @ np.diag(scale) @ rotation
    matrix[:3, 3] = axes @ (scale * -base)
    return matrix


def place_matrix(placement: Placement) -> Array:
    """From a fitted model to where it stands: 4x4."""
    cos, sin = math.cos(placement.yaw), math.sin(placement.yaw)
    matrix = np.eye(4)
    matrix[:3, :3] = placement.scale * np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    matrix[:3, 3] = placement.position
    return matrix


def transform(matrix: Array, points_V3: Array) -> Array:
    """Apply a 4x4 matrix to points [V, 3]."""
    moved: Array = points_V3 @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def heights_below(triangles_T33: Array, points_P2: Array, limit: float) -> Array:
    """Highest surface not above ``limit`` at each point seen from above; -inf where there is none.

    Args:
        triangles_T33: in metres.
        points_P2: x and y.
        limit: metres.
    """
    found = np.full(len(points_P2), -np.inf)
    low, high = triangles_T33[:, :, :2].min(1), triangles_T33[:, :, :2].max(1)
    for row, point in enumerate(points_P2):
        near = triangles_T33[((low <= point) & (point <= high)).all(1)]
        first, second, third = near[:, 0], near[:, 1], near[:, 2]
        edge, other, at = second - first, third - first, point - first[:, :2]
        area = edge[:, 0] * other[:, 1] - edge[:, 1] * other[:, 0]
        safe = np.where(np.abs(area) < 1e-12, np.inf, area)
        u = (at[:, 0] * other[:, 1] - at[:, 1] * other[:, 0]) / safe
        v = (edge[:, 0] * at[:, 1] - edge[:, 1] * at[:, 0]) / safe
        z = first[:, 2] + u * edge[:, 2] + v * other[:, 2]
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & np.isfinite(safe) & (z <= limit)
        if hit.any():
            found[row] = z[hit].max()
    return found


def settle(placement: Placement, carrier_T33: Array) -> float | None:
    """Height at which a small thing really stands on its carrier.

    Args:
        placement: planned, at the height that the catalogue gives.
        carrier_T33: triangles of what carries it, in metres.

    Returns:
        The height of its base; None where nothing is under it, or something in its way.
    """
    x, y, planned = placement.position
    half_x, half_y = placement.thing.size[0] / 2, placement.thing.size[1] / 2
    steps = 0.75 * placement.scale * np.array([[0, 0], [-1, -1], [-1, 1], [1, -1], [1, 1]])
    cos, sin = math.cos(placement.yaw), math.sin(placement.yaw)
    local = steps * (half_x, half_y)
    points = local @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
    under = heights_below(carrier_T33, points, planned + RISE)
    height = float(under.max())
    steady = int((under > height - STEADY).sum())
    if height < planned - SINK or steady < 4:
        return None
    top = height + placement.thing.size[2] * placement.scale
    if float(heights_below(carrier_T33, points, top).max()) > height + STEADY:
        return None
    return height + 1e-4


def silhouette_area(camera: Camera, triangles_T33: Array, size: int) -> float:
    """Pixels that a thing would have were nothing in front of it and the picture without borders.

    Args:
        camera: the view.
        triangles_T33: of the thing, in metres; those behind the camera are left out.
        size: side of the picture in pixels.
    """
    seen, depth = camera.project(triangles_T33.reshape(-1, 3))
    shapes = seen.reshape(-1, 3, 2)[(depth.reshape(-1, 3) > NEAR).all(1)]
    if not len(shapes):
        return 0.0
    low, high = shapes.min((0, 1)), shapes.max((0, 1))
    span = float(max(high - low).clip(1e-6))
    side = int(np.clip(span * size, 96, 256))  # a polygon's edge counts whole: small ones finely
    canvas = Image.new("1", (side + 2, side + 2))
    draw = ImageDraw.Draw(canvas)
    for corners in ((shapes - low) / span * side).reshape(-1, 6).tolist():
        draw.polygon(corners, fill=1)
    return float(np.asarray(canvas).sum()) * (span * size / side) ** 2
