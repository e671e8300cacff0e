"""What an exported graph says against what the network says.

The reference is the same module in torch, in float32, on the same inputs. A query of the reference
is compared with the query of the exported graph that is nearest in box and objectness, for the
queries that score highest in each picture: near the end of a ranking, rounding may let another one
in.

Shapes: B pictures, K names, D text width, Q queries.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from mobius_seg.export.runtime import ExportedModel
from mobius_seg.export.session import Array, Session
from mobius_seg.preprocess import PAD_VALUE, make_fixed_frame, resize
from mobius_seg.text_cache import BUNDLED_NAMES, read_names

NAME_COUNTS = (1, 5, 80, 1203)
BATCHES = (1, 4)
COMPARED = 20
"""Queries of each picture that are compared, the best ones."""
MASK_IOU_BAR = 0.99
"""Of float32 graphs: mean mask IoU in every case."""
AP_BARS = {"fp32": 0.1, "fp16": 0.2, "int8": 1.0}
"""Points of mask AP that a precision may differ."""
_PHOTOGRAPHS = ("chelsea.png", "coffee.png")


def compare(reference: dict[str, Array], found: dict[str, Array]) -> dict[str, float]:
    """Figures of one call.

    Args:
        reference: outputs of the network.
        found: outputs of the exported graph.

    Returns:
        ``score`` and ``logit`` (largest difference of a score and of its logit), ``mask_iou``
        (mean) and ``mask_iou_min``, ``box_iou`` (mean), ``classes`` (share of queries whose best
        name is the same). Masks that are empty in both agree.
    """
    scores, logits, masks, boxes, classes = [], [], [], [], []
    for row in range(len(reference["boxes"])):
        ours = {key: value[row] for key, value in reference.items()}
        theirs = {key: value[row] for key, value in found.items()}
        best_Q = ours["scores"].max(-1)
        for query in np.argsort(-best_Q, kind="stable")[:COMPARED]:
            twin = _nearest(ours, theirs, query)
            p_K, q_K = ours["scores"][query], theirs["scores"][twin]
            scores.append(np.abs(p_K - q_K).max())
            logits.append(np.abs(_logit(p_K) - _logit(q_K)).max())
            masks.append(_mask_iou(ours["masks"][query] > 0, theirs["masks"][twin] > 0))
            boxes.append(_box_iou(ours["boxes"][query], theirs["boxes"][twin]))
            classes.append(p_K.argmax() == q_K.argmax())
    return {
        "score": float(np.max(scores)),
        "logit": float(np.max(logits)),
        "mask_iou": float(np.mean(masks)),
        "mask_iou_min": float(np.min(masks)),
        "box_iou": float(np.mean(boxes)),
        "classes": float(np.mean(classes)),
    }


def tensor_cases(
    reference: Session, session: Session, images_B3HW: Array, texts_KD: Array | None
) -> list[dict[str, Any]]:
    """Every case: batches, and counts of names where the vocabulary is an input.

    Args:
        reference: the network.
        session: the exported graph.
        images_B3HW: as many pictures as the largest batch.
        texts_KD: as many vectors as the graph takes or the largest count of names; None where
            names are fixed.
    """
    rows = []
    for batch in [size for size in BATCHES if size <= len(images_B3HW)]:
        counts: Sequence[int | None] = (None,)
        if texts_KD is not None:
            counts = [count for count in NAME_COUNTS if count <= len(texts_KD)]
        for count in counts:
            text_KD = None if texts_KD is None or count is None else texts_KD[:count]
            image_B3HW = images_B3HW[:batch]
            ours, theirs = (side.run(image_B3HW, text_KD) for side in (reference, session))
            names = ours["scores"].shape[2] if count is None else count
            rows.append({"names": names, "batch": batch, **compare(ours, theirs)})
    return rows


def parity_images(height: int, width: int, count: int) -> tuple[Array, str]:
    """Pictures float32 [count, 3, height, width] and what they are.

    Two photographs and their mirror images where scikit-image is installed, else seeded noise.
    """
    try:
        import skimage
    except ImportError:
        generator = np.random.default_rng(0)
        return generator.random((count, 3, height, width), np.float32), "seeded noise"
    from pathlib import Path

    folder = Path(skimage.__file__).parent / "data"
    batch = np.full((count, height, width, 3), PAD_VALUE, np.uint8)
    for row in range(count):
        with Image.open(folder / _PHOTOGRAPHS[row % 2]) as file:
            picture = np.asarray(file.convert("RGB"))
        picture = picture[:, :: -1 if row // 2 % 2 else 1]
        frame = make_fixed_frame(picture.shape[0], picture.shape[1], (height, width))
        small = resize(np.ascontiguousarray(picture), frame)
        batch[row, : small.shape[0], : small.shape[1]] = small
    words = "photographs chelsea and coffee of scikit-image, and mirrored"
    return np.moveaxis(batch, 3, 1).astype(np.float32) / 255, words


def parity_texts(known_KD: Array | None, count: int, dim: int) -> Array:
    """Text vectors float32 [count, dim]: known ones first, then seeded unit vectors."""
    generator = torch.Generator().manual_seed(0)
    made = F.normalize(torch.randn(count, dim, generator=generator), dim=-1).numpy()
    if known_KD is None:
        return np.asarray(made, np.float32)
    return np.concatenate([np.asarray(known_KD, np.float32), made])[:count]


def known_texts(identity: str, dim: int, count: int) -> Array:
    """Vectors [count, dim] of common names, as far as there are any, then made-up ones.

    Args:
        identity: of the text encoder.
        dim: of its vectors.
        count: how many.
    """
    known = list(read_names(BUNDLED_NAMES, identity).values())
    stacked = np.stack([vector.numpy() for vector in known]) if known else None
    return parity_texts(stacked, count, dim)


def ap_difference(
    reference: ExportedModel, exported: ExportedModel, annotations: Any, images: Any, limit: int
) -> dict[str, Any]:
    """Mask AP of both over the same pictures, in points.

    Args:
        reference: the network behind the same preprocessing.
        exported: the exported graph.
        annotations: COCO instance file.
        images: folder of its pictures.
        limit: only the first so many.

    Returns:
        ``network``, ``exported`` and ``difference`` in points, or ``reason`` where the figure is
        undefined, and the conditions.

    Raises:
        InputError: the files cannot be used.
    """
    from mobius_seg.data.coco import read_coco
    from mobius_seg.evaluate.runner import evaluate

    main = exported.spec.main
    everything = main.vocabulary == "everything"
    mode, key = ("everything", "agnostic_mask_ap") if everything else ("names", "mask_ap")
    names = {name.strip() for name in read_coco(annotations).names}
    if main.vocabulary == "baked" and exported.spec.dynamic is None and not names <= {*main.names}:
        return {"reason": "the fixed names are not all of the annotation file's"}
    values, conditions = {}, {}
    for side, model in (("network", reference), ("exported", exported)):
        found: Any = model
        metrics = evaluate(
            found, annotations, images, mode=mode, limit=limit, batch=1, progress=False
        )
        values[side] = metrics[key]
        conditions = {"figure": key, "images": metrics["images"], "names": metrics["names"]}
    if values["network"] is None or values["exported"] is None:
        return {"reason": f"{key} is undefined on these annotations", **conditions}
    points = {side: 100 * value for side, value in values.items()}
    return {**points, "difference": points["exported"] - points["network"], **conditions}


def judge(precision: str, rows: Sequence[dict[str, Any]], ap: dict[str, Any]) -> list[Any]:
    """The bars that apply, each with its limit, the value and whether it holds.

    Args:
        precision: ``fp32``, ``fp16`` or ``int8``.
        rows: of :func:`tensor_cases`.
        ap: of :func:`ap_difference`.
    """
    bars: list[dict[str, Any]] = []
    if precision == "fp32" and rows:
        value = min(row["mask_iou"] for row in rows)
        bars.append({"bar": "mask IoU", "at_least": MASK_IOU_BAR, "value": value})
        bars[-1]["holds"] = value >= MASK_IOU_BAR
    receipts = [row["receipt"] for row in rows if "receipt" in row]
    if receipts:
        value = sum(receipts) / len(receipts)
        bars.append({"bar": "equal receipts", "at_least": 1.0, "value": value})
        bars[-1]["holds"] = all(receipts)
    if precision in AP_BARS and "difference" in ap:
        value, most = abs(ap["difference"]), AP_BARS[precision]
        bars.append({"bar": "points of AP", "at_most": most, "value": value})
        bars[-1]["holds"] = math.isfinite(value) and value <= most
    return bars


def _nearest(ours: dict[str, Array], theirs: dict[str, Array], query: int) -> int:
    """The exported graph's query that is the same one; its own place where it is as near."""
    apart_Q = np.abs(theirs["boxes"] - ours["boxes"][query]).sum(-1)
    apart_Q = apart_Q + np.abs(theirs["objectness"] - ours["objectness"][query])
    if query < len(apart_Q) and apart_Q[query] <= apart_Q.min():
        return query
    return int(apart_Q.argmin())


def _logit(prob: Array) -> Array:
    """Logits of scores, which are cut at one part in a million."""
    inside = np.clip(prob.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.asarray(np.log(inside / (1 - inside)))


def _mask_iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """IoU of two masks, 1 where both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def _box_iou(one_4: Array, other_4: Array) -> float:
    """IoU of two boxes cxcywh."""
    low = np.maximum(one_4[:2] - one_4[2:] / 2, other_4[:2] - other_4[2:] / 2)
    high = np.minimum(one_4[:2] + one_4[2:] / 2, other_4[:2] + other_4[2:] / 2)
    shared = float(np.prod(np.clip(high - low, 0, None)))
    total = float(np.prod(one_4[2:]) + np.prod(other_4[2:])) - shared
    return shared / total if total > 0 else 1.0
