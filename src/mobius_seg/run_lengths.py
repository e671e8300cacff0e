"""Masks as the runs of their columns: the compressed form of COCO (pycocotools).

Shapes: X columns and Y rows of a window of a picture.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask


def run_edges(inside_XY: NDArray[np.bool_], offset: int, height: int) -> NDArray[np.int64]:
    """Starts and ends of the runs of each column, as positions in the whole picture, ascending.

    Args:
        inside_XY: bool, a window of the mask, one row a column of the picture.
        offset: position of the window's first pixel in the column-by-column picture.
        height: of the picture.
    """
    columns, rows = inside_XY.shape
    # One empty pixel after each column keeps the runs of neighbours apart in the flat array.
    apart = np.zeros((columns, rows + 1), np.bool_)
    apart[:, :rows] = inside_XY
    flat = apart.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        changes = np.concatenate([[0], changes])
    column, row = np.divmod(changes, rows + 1)
    return np.asarray(offset + column * height + row, np.int64)


def edges_to_rle(edges: NDArray[np.int64], original: tuple[int, int]) -> dict[str, Any] | None:
    """Compressed COCO RLE of ascending run edges; None when there is none."""
    if not edges.size:
        return None
    # A run that ends at the foot of a column and one that starts at the next column's head are one.
    doubled = np.flatnonzero(edges[1:] == edges[:-1])
    edges = np.delete(edges, np.concatenate([doubled, doubled + 1]))
    height, width = original
    runs = np.diff(edges, prepend=0, append=height * width)
    if runs[-1] == 0:
        runs = runs[:-1]
    plain = {"size": [height, width], "counts": runs.tolist()}
    rle: dict[str, Any] = coco_mask.frPyObjects(plain, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}
