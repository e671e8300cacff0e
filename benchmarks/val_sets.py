"""The two val sets: composed from a pack by fixed seeds, recognised by stored digests."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from conditions import ROOT
from mobius_seg.data.compose import write_dataset
from mobius_seg.files import write_text

DIGESTS = ROOT / "benchmarks" / "val_digests.json"
SEEDS = {"val-base": 1000, "val-novel": 2000}
COUNT = 500
SIZE = 256


@dataclass(frozen=True, kw_only=True)
class ValSet:
    """A composed val set on disk.

    Attributes:
        split: "val-base" or "val-novel".
        annotations: COCO JSON.
        images: folder of pictures.
        expressions: JSON of referring expressions.
    """

    split: str
    annotations: Path
    images: Path
    expressions: Path


def val_set(split: str, pack: Path, folder: Path) -> ValSet:
    """Compose a val set (or take the one that is there) and check it against the stored digests.

    Args:
        split: "val-base" or "val-novel".
        pack: the full pack.
        folder: where val sets are kept.

    Raises:
        SystemExit: the digests differ from those stored in ``val_digests.json``.
    """
    out = folder / f"{split}-{COUNT}-{SIZE}-{SEEDS[split]}"
    found = ValSet(
        split=split,
        annotations=out / "annotations.json",
        images=out / "images",
        expressions=out / "expressions.json",
    )
    if not found.annotations.exists():
        write_dataset(pack, split, COUNT, SIZE, SEEDS[split], out)
    _check(split, digests(found))
    return found


def digests(found: ValSet) -> dict[str, str | int]:
    """SHA-256 of the annotations, the expressions and the decoded pixels, with what made them."""
    pixels = hashlib.sha256()
    for path in sorted(found.images.iterdir()):
        with Image.open(path) as image:
            pixels.update(np.asarray(image.convert("RGB")).tobytes())
    return {
        "count": COUNT,
        "size": SIZE,
        "seed": SEEDS[found.split],
        "annotations_sha256": _content_sha256(found.annotations),
        "expressions_sha256": _content_sha256(found.expressions),
        "pixels_sha256": pixels.hexdigest(),
    }


def _content_sha256(path: Path) -> str:
    """Digest of a file's content without its ``info``.

    That names the pack, whose bytes may change (a new colour word, say) while every scene stays.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop("info", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check(split: str, made: dict[str, str | int]) -> None:
    """Compare with the stored digests; the first time there is nothing to compare with, store."""
    stored = json.loads(DIGESTS.read_text()) if DIGESTS.exists() else {}
    if split not in stored:
        write_text(DIGESTS, json.dumps(stored | {split: made}, indent=2) + "\n")
        print(f"{split}: digests written to {DIGESTS.relative_to(ROOT)}; they stay from now on")
        return
    wrong = [key for key, value in stored[split].items() if made.get(key) != value]
    if wrong:
        raise SystemExit(
            f"{split}: {', '.join(wrong)} differ from {DIGESTS.relative_to(ROOT)}: another pack or "
            "composer; figures would not compare with earlier ones"
        )
