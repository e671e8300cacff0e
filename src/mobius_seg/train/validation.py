"""A run judged on pictures that it is not trained on, and its best weights kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mobius_seg.data.coco_file import picture_path, read_coco
from mobius_seg.errors import InputError
from mobius_seg.evaluate.ap import ApScorer
from mobius_seg.evaluate.runner import evaluate
from mobius_seg.files import write_text
from mobius_seg.model import Mobius
from mobius_seg.predictor import Predictor
from mobius_seg.train.validation_settings import Validation

VALIDATION_FILE = "validation.jsonl"
BEST = "best"  # where a run keeps the weights that were judged best
_KEPT = (
    *("mask_ap", "mask_ap50", "mask_ap75", "box_ap", "box_ap50"),
    *("agnostic_mask_ap", "agnostic_mask_ap50", "agnostic_ar100"),
)


class Validator:
    """Judges the averaged weights of a run, writes a line each time and keeps the best.

    Args:
        validation: what on and how often; the file and its pictures are checked at once.
        out: folder of the run.

    Attributes:
        lines: one a judgement: the step, the figures (COCO averages in 0..1), whether it is the
            best so far. In the main process alone.
        last: step of the last judgement, in every process.

    Raises:
        InputError: the annotations or the pictures cannot be used.
    """

    def __init__(self, validation: Validation, out: Path) -> None:
        """See the class."""
        self.validation, self.out = validation, out
        coco = read_coco(validation.annotations)
        rows = range(len(coco.images))[: validation.limit]
        for row in rows:
            picture_path(coco.images[row], validation.images)
        if not any(not coco.annotations[i].crowd for row in rows for i in coco.by_image[row]):
            raise InputError(
                f"{validation.annotations}: the pictures to judge on hold no object (crowds do not"
                " count); allowed: one or more"
            )
        self.figure = "mask_ap" if ApScorer(coco, rows).has_masks else "box_ap"
        self.lines: list[dict[str, Any]] = []
        self.last: int | None = None

    def go_on(self, step: int) -> None:
        """Take up the lines of a run that goes on; those of steps after ``step`` are forgotten."""
        file = self.out / VALIDATION_FILE
        if file.is_file():
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            self.lines = [line for line in lines if line["step"] <= step]
            self.last = self.lines[-1]["step"] if self.lines else None

    @property
    def best(self) -> dict[str, Any] | None:
        """The line of the best weights, of equal ones the latest; None before the first."""
        scored = [line for line in reversed(self.lines) if line[self.figure] is not None]
        return max(scored, key=lambda line: float(line[self.figure]), default=None)

    def due(self, step: int, last: bool = False) -> bool:
        """Whether weights are to be judged after a step.

        Args:
            step: how many were taken.
            last: they were the last.
        """
        return self.last != step and (last or step % self.validation.steps == 0)

    def judge(self, network: Mobius, step: int, save: Callable[[Path], None]) -> dict[str, Any]:
        """Score weights at the model's own input size, and keep them if none were better.

        Args:
            network: left in evaluation mode.
            step: how many steps it has learned.
            save: writes the network into a folder.

        Returns:
            The line that was written.
        """
        device = next(network.parameters()).device
        metrics = evaluate(
            Predictor(network, device=device),
            self.validation.annotations,
            self.validation.images,
            limit=self.validation.limit,
            progress=False,
        )
        before = self.best
        line: dict[str, Any] = {"step": step}
        line |= {key: metrics[key] for key in _KEPT if key in metrics}
        value = line[self.figure]
        line["best"] = value is not None and (before is None or value >= before[self.figure])
        self.lines.append(line)
        if line["best"]:
            save(self.out / BEST)
        text = "".join(json.dumps(one) + "\n" for one in self.lines)
        write_text(self.out / VALIDATION_FILE, text)
        return line

    def spoken(self, line: dict[str, Any]) -> str:
        """A judgement in words: the deciding figure, in per cent, and whether it is the best."""
        value = line[self.figure]
        shown = "undefined" if value is None else f"{100 * value:.1f}"
        return f"val {self.figure} {shown}" + ("  (best so far)" if line["best"] else "")
