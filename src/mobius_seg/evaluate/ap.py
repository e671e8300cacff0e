"""COCO average precision of masks and boxes, with names and without.

The arithmetic is the COCO API's. It is run by faster-coco-eval where that is installed (the extra
``eval``: several times faster where there are many names) and by pycocotools otherwise; a
parity test holds the two to 1e-6 of each other. What the API does badly is done here: annotation
ids are numbered from 1 (an id of 0 reads as "not matched"), the area of a predicted mask is that of
its pixels and not of its box, and what is undefined is None instead of -1.
"""

import contextlib
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mobius_seg.data.coco_file import CocoData

Kind = Literal["segm", "bbox"]
Metrics = dict[str, float | None]

MAX_DETECTIONS = 100
"""Results of an image that count: COCO's limit, here over all names together."""


class ApScorer:
    """Collects the predictions of a data set, then scores them.

    Predictions are kept as run lengths, so memory grows with their number and not with pixels.

    Args:
        coco: the ground truth.
        images: indices of the images to score; annotations of others do not count.
    """

    def __init__(self, coco: CocoData, images: Sequence[int]) -> None:
        self._coco = coco
        self._images = list(images)
        self._rows = {name: row for row, name in enumerate(coco.names)}
        self._named: list[dict[str, Any]] = []
        self._agnostic: list[dict[str, Any]] = []
        truth = [i for image in self._images for i in coco.by_image[image]]
        self.has_masks = all(
            coco.annotations[i].segmentation is not None or coco.annotations[i].crowd for i in truth
        )
        self._truth = [self._truth_entry(i) for i in truth]

    def add(
        self,
        image: int,
        rles: Sequence[Mapping[str, Any]],
        boxes_xyxy: NDArray[np.float32],
        scores: NDArray[np.float32],
        names: Sequence[str] | None,
        instances: NDArray[np.int64] | None = None,
    ) -> None:
        """Add what was found on one image.

        Named, the 100 results of highest score count, also where they show one instance under
        several names; with names ignored, the best result of each of the 100 best instances. Of
        the former, those of a name that a federated file says nothing about in this picture do not
        count (the rule of LVIS, Gupta et al. 2019); its ``not_exhaustive_category_ids`` are not
        read.

        Args:
            image: index of the image.
            rles: N masks at the picture's own size.
            boxes_xyxy: [N, 4] in pixels.
            scores: [N].
            names: N names of the data set, or None where the prompt held no names.
            instances: [N], results of one number show the same instance; None = all differ.
        """
        assert np.isfinite(scores).all()
        assert np.isfinite(boxes_xyxy).all()
        order = np.argsort(-scores, kind="stable")
        if instances is None:
            first = order
        else:
            seen = instances[order]
            first = order[np.sort(np.unique(seen, return_index=True)[1])]
        for kept, side in ((order, self._named), (first, self._agnostic)):
            kept = kept[:MAX_DETECTIONS]
            if side is self._named and names is not None:
                kept = kept[[self._known(image, names[i]) for i in kept]]
            areas = coco_mask.area([rles[i] for i in kept]) if len(kept) else []
            for i, area in zip(kept, areas, strict=True):
                x0, y0, x1, y1 = (float(v) for v in boxes_xyxy[i])
                side.append(
                    {
                        "image_id": image + 1,
                        "category_id": 1 if names is None else self._rows[names[i]] + 1,
                        "score": float(scores[i]),
                        "segmentation": rles[i],
                        "mask_area": float(area),
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                    }
                )

    def without(self, images: Collection[int]) -> "ApScorer":
        """The same without some images, as if they were not in the data set.

        Args:
            images: their indices.
        """
        rest = ApScorer(self._coco, [image for image in self._images if image not in images])
        gone = {image + 1 for image in images}
        rest._named = [entry for entry in self._named if entry["image_id"] not in gone]
        rest._agnostic = [entry for entry in self._agnostic if entry["image_id"] not in gone]
        return rest

    def _known(self, image: int, name: str) -> bool:
        """Whether the file says if a name is in a picture."""
        absent, row = self._coco.images[image].absent, self._rows[name]
        if absent is None or row in absent:
            return True
        return any(self._coco.annotations[i].name == row for i in self._coco.by_image[image])

    def named(self, *, boxes: bool = True) -> Metrics:
        """Mask and box AP over the names that the images hold, with the names judged.

        Args:
            boxes: score boxes too; without it their figures are None.

        Returns:
            ``mask_`` and ``box_`` with ``ap``, ``ap50``, ``ap75``, ``ap_small``, ``ap_medium``,
            ``ap_large`` (areas up to 32 x 32, 96 x 96, beyond) and ``ar100``: fractions of 1, None
            where undefined. Mask figures are None where an annotation has no mask.
        """
        masks = self._score("segm", by_name=True) if self.has_masks else None
        return _with_prefix("mask_", masks) | _with_prefix(
            "box_", self._score("bbox", by_name=True) if boxes else None
        )

    def agnostic(self, *, boxes: bool = True) -> Metrics:
        """The same with every name taken for one: are the objects found at all?

        Args:
            boxes: score boxes too; without it their figures are None.

        Returns:
            ``agnostic_mask_`` and ``agnostic_box_`` figures as those of :meth:`named`;
            ``agnostic_ar100`` is that of masks.
        """
        masks = self._score("segm", by_name=False) if self.has_masks else None
        figures = _with_prefix("agnostic_mask_", masks)
        figures["agnostic_ar100"] = figures.pop("agnostic_mask_ar100")
        found = self._score("bbox", by_name=False) if boxes else None
        return figures | _with_prefix("agnostic_box_", found)

    def _truth_entry(self, index: int) -> dict[str, Any]:
        """One annotation, renumbered from 1, its mask as run lengths."""
        annotation = self._coco.annotations[index]
        rle = self._coco.rle(index)
        x, y, w, h = annotation.bbox
        area = annotation.area
        if area is None:
            area = w * h if rle is None else float(coco_mask.area(rle))
        return {
            "id": index + 1,
            "image_id": annotation.image + 1,
            "category_id": annotation.name + 1,
            "bbox": [x, y, w, h],
            "area": area,
            "iscrowd": int(annotation.crowd),
            "segmentation": rle,
        }

    def _score(self, kind: Kind, *, by_name: bool) -> Metrics:
        """One COCO evaluation."""
        truth = [
            {**entry, "category_id": entry["category_id"] if by_name else 1}
            for entry in self._truth
            if kind == "bbox" or entry["segmentation"] is not None
        ]
        wanted = {entry["category_id"] for entry in truth if not entry["iscrowd"]}
        if not wanted:
            return dict.fromkeys(_FIGURES)
        truth = [entry for entry in truth if entry["category_id"] in wanted]
        detections = []
        found = self._named if by_name else self._agnostic
        for number, entry in enumerate(found, start=1):
            category = entry["category_id"] if by_name else 1
            if category in wanted:  # a name without an instance has no AP and costs time
                detections.append(_detection(entry, number, category, kind))
        sizes = self._coco.images
        images = [
            {"id": i + 1, "height": sizes[i].height, "width": sizes[i].width} for i in self._images
        ]
        return run_coco_eval(images, truth, detections, sorted(wanted), kind)


def run_coco_eval(
    images: list[dict[str, Any]],
    truth: list[dict[str, Any]],
    detections: list[dict[str, Any]],
    categories: list[int],
    kind: Kind,
) -> Metrics:
    """Run the COCO API on entries in its own form.

    Args:
        images: ``id``, ``height``, ``width``.
        truth: annotations with ids from 1, masks as run lengths.
        detections: the same with ``score``.
        categories: ids to average over.
        kind: compare masks or boxes.

    Returns:
        ``ap``, ``ap50``, ``ap75``, ``ap_small``, ``ap_medium``, ``ap_large`` and ``ar100``, None
        where undefined.
    """
    coco_class, eval_class, _ = engine()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        sides = []
        for annotations in (truth, detections):
            side = coco_class()
            side.dataset = {
                "info": {},
                "images": images,
                "annotations": annotations,
                "categories": [{"id": i, "name": str(i)} for i in categories],
            }
            side.createIndex()
            sides.append(side)
        judge = eval_class(*sides, kind)
        judge.evaluate()
        judge.accumulate()
    precision_TRKAM, recall_TKAM = judge.eval["precision"], judge.eval["recall"]
    figures = {
        name: _mean(precision_TRKAM[thresholds, :, :, area, -1])
        for name, (thresholds, area) in _PRECISIONS.items()
    }
    return figures | {"ar100": _mean(recall_TKAM[:, :, 0, -1])}


def engine() -> tuple[Any, Any, str]:
    """The COCO API's ``COCO`` and ``COCOeval`` in use, and its name with version."""
    try:
        import faster_coco_eval

        version = f"faster-coco-eval {faster_coco_eval.__version__}"
        return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster, version
    except ImportError:
        from importlib.metadata import version as installed

        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval, f"pycocotools {installed('pycocotools')}"


# Name -> (IoU thresholds 0.50, 0.55 ... 0.95, area range all, small, medium, large).
_PRECISIONS: dict[str, tuple[slice, int]] = {
    "ap": (slice(None), 0),
    "ap50": (slice(0, 1), 0),
    "ap75": (slice(5, 6), 0),
    "ap_small": (slice(None), 1),
    "ap_medium": (slice(None), 2),
    "ap_large": (slice(None), 3),
}
_FIGURES = (*_PRECISIONS, "ar100")


def _detection(entry: dict[str, Any], number: int, category: int, kind: Kind) -> dict[str, Any]:
    """A prediction in the COCO API's form; its area is that of what is compared."""
    _, _, width, height = entry["bbox"]
    return {
        "id": number,
        "image_id": entry["image_id"],
        "category_id": category,
        "score": entry["score"],
        "segmentation": entry["segmentation"],
        "bbox": entry["bbox"],
        "area": entry["mask_area"] if kind == "segm" else width * height,
        "iscrowd": 0,
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    """Mean of what is defined (the COCO API marks the rest with -1), None where nothing is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _with_prefix(prefix: str, metrics: Metrics | None) -> Metrics:
    """The same figures under longer names; all None where they could not be taken."""
    return {prefix + name: None if metrics is None else metrics[name] for name in _FIGURES}
