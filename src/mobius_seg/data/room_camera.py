"""Cameras of rooms: what one sees, and which of many is worth a picture.

Legend: N points, M things.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NEAR = 0.05  # metres; what is closer is cut away
CLEARANCE = 0.2  # metres between a camera and what stands about
VIEWS = 80
"""Views that one is chosen from."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A square pinhole camera.

    Attributes:
        position: in metres.
        target: what it looks at.
        angle: of view, degrees.
        roll: degrees, the head held askew.
    """

    position: tuple[float, float, float]
    target: tuple[float, float, float]
    angle: float
    roll: float = 0.0

    def axes(self) -> Array:
        """Rows right, up and forward, float64 [3, 3]."""
        forward = np.array(self.target, np.float64) - np.array(self.position)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= max(float(np.linalg.norm(right)), 1e-9)
        up = np.cross(right, forward)
        cos, sin = math.cos(math.radians(self.roll)), math.sin(math.radians(self.roll))
        return np.stack([cos * right + sin * up, cos * up - sin * right, forward])

    def project(self, points_N3: Array) -> tuple[Array, Array]:
        """Where points appear.

        Args:
            points_N3: in metres.

        Returns:
            [N, 2] with x right and y down, 0..1 inside the picture, and depths [N] in metres; what
            lies behind ``NEAR`` is put there.
        """
        local = (points_N3 - np.array(self.position)) @ self.axes().T
        depth = local[:, 2]
        scale = 2 * math.tan(math.radians(self.angle) / 2) * np.maximum(depth, NEAR)
        return np.stack([0.5 + local[:, 0] / scale, 0.5 - local[:, 1] / scale], 1), depth


def extents(camera: Camera, boxes_M23: Array) -> tuple[Array, NDArray[np.bool_]]:
    """How large boxes appear and whether their middle is in the picture.

    Args:
        camera: the view.
        boxes_M23: lowest and highest corners, metres.

    Returns:
        Longest sides over the picture's side, [M], and bool [M]; 0 and False behind the camera.
    """
    pick = np.array([[i >> axis & 1 for axis in range(3)] for i in range(8)])
    corners_M83 = boxes_M23[:, pick, np.arange(3)]
    seen, _ = camera.project(corners_M83.reshape(-1, 3))
    sizes = np.ptp(np.clip(seen.reshape(-1, 8, 2), -2, 3), axis=1).max(1)
    middles, depth = camera.project(boxes_M23.mean(1))
    before = depth > 2 * NEAR
    return np.where(before, sizes, 0.0), before & (np.abs(middles - 0.5) < 0.47).all(1)


def count_shown(camera: Camera, boxes_M23: Array) -> int:
    """How many boxes are in the picture at a fair size, whatever stands in front of them."""
    sizes, inside = extents(camera, boxes_M23)
    return int((inside & (sizes > 0.05) & (sizes < 1.3)).sum())


def is_clear(position: Sequence[float], boxes_M23: Array, clearance: float = CLEARANCE) -> bool:
    """Whether nothing is within ``clearance`` metres of a position."""
    point = np.array(position)
    gap = np.maximum(boxes_M23[:, 0] - point, point - boxes_M23[:, 1]).clip(0)
    return bool((np.linalg.norm(gap, axis=1) > clearance).all())


def score(camera: Camera, boxes_M23: Array, star: int) -> float:
    """How much a view shows: things of a fair size, the star above all, nothing huge in front.

    Args:
        camera: the view.
        boxes_M23: of all things.
        star: row of the thing that the scene is made around.
    """
    sizes, inside = extents(camera, boxes_M23)
    shown = inside & (sizes > 0.05)
    value = float(np.minimum(sizes[shown] / 0.2, 1).sum())
    value += 0.5 * float((shown & (sizes > 0.25)).sum())
    value += 3.0 * float(shown[star]) + 2.0 * float(shown[star] and sizes[star] > 0.2)
    return value - 2.5 * float((sizes > 1.3).sum())


def choose(
    rng: np.random.Generator, cameras: Sequence[Camera], boxes_M23: Array, star: int
) -> Camera:
    """One of the best tenth of the views, so that they differ.

    Args:
        rng: source of the choice.
        cameras: at least one.
        boxes_M23: of all things.
        star: row of the thing that the scene is made around.
    """
    values = np.array([score(camera, boxes_M23, star) for camera in cameras])
    order = np.argsort(-values, kind="stable")
    best = order[: max(1, len(order) // 10)]
    return cameras[int(best[int(rng.integers(len(best)))])]


def room_views(
    rng: np.random.Generator,
    boxes_M23: Array,
    focus: int,
    *,
    width: float,
    reach: tuple[float, float],
    height: float,
) -> list[Camera]:
    """Views of a room at eye height or lower, most of them at its star; at least one.

    Args:
        rng: source of every choice.
        boxes_M23: of all things.
        focus: row of the star.
        width: of the room.
        reach: lowest and highest y of the camera.
        height: of the ceiling.
    """
    cameras = []
    middles = boxes_M23.mean(1)
    for _ in range(4 * VIEWS):
        eye = rng.uniform(1.4, 1.7) if rng.random() < 0.5 else rng.uniform(0.6, 1.5)
        x, y = rng.uniform(-0.45, 0.45) * width, rng.uniform(*reach)
        position = (float(x), float(y), min(float(eye), height - 0.3))
        aim = middles[focus if rng.random() < 0.6 else int(rng.integers(len(middles)))]
        target = aim + rng.normal(0, 0.25, 3) * (1.0, 1.0, 0.5)
        camera = _camera(position, target, rng.uniform(32, 64), rng.normal(0, 1.5))
        far = np.linalg.norm(target[:2] - (x, y)) > 0.6
        if far and is_clear(position, boxes_M23):
            cameras.append(camera)
        if len(cameras) == VIEWS:
            break
    return cameras or [
        _camera((0.0, reach[0], 1.5), middles[focus], 60.0, 0.0),
    ]


def close_views(
    rng: np.random.Generator, boxes_M23: Array, focus: int, *, width: float, reach: float
) -> list[Camera]:
    """Views of what stands on a table from near by, above its top; at least one.

    Args:
        rng: source of every choice.
        boxes_M23: of all things.
        focus: row of the star, which stands on something.
        width: of the room.
        reach: lowest y of the camera.
    """
    star = boxes_M23[focus]
    size = float(np.ptp(star, axis=0).max())
    cameras = []
    for _ in range(4 * VIEWS):
        away = float(np.clip(size / rng.uniform(0.15, 0.5), 0.22, 1.4))
        turn, rise = rng.normal(0, 0.7), rng.uniform(0.12, 0.9)
        flat = away * math.cos(rise)
        x = star[:, 0].mean() + flat * math.sin(turn)
        y = star[:, 1].mean() - flat * math.cos(turn)
        position = (float(x), float(y), float(star[0, 2] + 0.05 + away * math.sin(rise)))
        target = star.mean(0) + rng.normal(0, 0.06, 3) * (1.5, 1.5, 0.5)
        camera = _camera(position, target, rng.uniform(36, 62), rng.normal(0, 3))
        inside = abs(x) < width / 2 - 0.1 and y > reach
        if inside and is_clear(position, boxes_M23, 0.12):
            cameras.append(camera)
        if len(cameras) == VIEWS:
            break
    return cameras or [_camera(star.mean(0) + np.array([0.0, -0.6, 0.35]), star.mean(0), 50.0, 0.0)]


def _camera(position: Sequence[float] | Array, target: Array, angle: float, roll: float) -> Camera:
    x, y, z = (float(value) for value in position)
    at_x, at_y, at_z = (float(value) for value in target)
    return Camera(
        position=(x, y, z), target=(at_x, at_y, at_z), angle=float(angle), roll=float(roll)
    )
