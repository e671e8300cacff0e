"""Make ``tests/data/expected.json``: what Python says about small cases that the page must repeat.

``python web/tests/expected.py`` writes it anew; tests/e2e/test_web.py checks that it is current.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from tokenizers import Tokenizer

from mobius_seg.checkpoint import load_calibration
from mobius_seg.config import ModelConfig
from mobius_seg.jobs import Job, Limits, build_instances
from mobius_seg.posthoc import ScoreMaps, StageMap
from mobius_seg.postprocess import QueryMasks
from mobius_seg.preprocess import make_frame, resize
from mobius_seg.prompts import Prompt
from mobius_seg.text import packaged_minilm

FILE = Path(__file__).parent / "data" / "expected.json"
TEXTS = (
    *("cat", "Coffee Cup", "  two   spaces ", "wine-glass", "it's", "don't!", "a,b;c", "3.14 km/h"),
    *(
        "naïve café",
        "ÄÖÜ Straße",
        "Ελληνικά Σίσυφος",
        "русский язык",
        "日本語のテキスト",
        "汉字漢字",
    ),
    *("한국어", "हिन्दी", "العربية", "עברית", "emoji 🐈‍⬛ cat", "tab\tnew\nline", "zero\u200bwidth"),
    *("non\u00a0breaking", "\u3000wide\u3000", "[MASK] and [SEP]", "[mask]", "$5 + <b> ^ ` | ~ ="),
    *("x" * 100, "x" * 101, "antidisestablishmentarianism", "İstanbul", "ﬁne ligature", "ǅ"),
    *("e\u0301 combining", "\u0301", "—dash–dash", "“quotes”", "¿qué?", "a\u0000b", "\ufffd", ""),
    *("the red cup left of the lamp", "word " * 300, "𝓯𝓪𝓷𝓬𝔂", "½ ² ①", "snake_case", "ß", "ﷺ"),
)


def main() -> None:
    """Write the file."""
    FILE.parent.mkdir(exist_ok=True)
    text = json.dumps(expected(), ensure_ascii=True, separators=(",", ":"))
    FILE.write_text(text + "\n", encoding="utf-8")


def expected() -> dict[str, Any]:
    """Every case with its answer."""
    return {
        "tokens": _tokens(),
        "frames": [_frame(*case) for case in ((300, 451, 256), (5, 2, 3), (1, 900, 320))],
        "resized": [_resized(*case) for case in ((23, 31, 12), (9, 7, 20), (40, 64, 64))],
        "maps": _maps(),
        "instances": [_instances(seed) for seed in range(4)],
    }


def _tokens() -> list[dict[str, Any]]:
    tokenizer = Tokenizer.from_file(str(packaged_minilm() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    return [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS]


def _frame(height: int, width: int, size: int) -> dict[str, Any]:
    frame = make_frame(height, width, size)
    sizes = {"original": frame.original, "resized": frame.resized, "padded": frame.padded}
    return {"size": size, **{key: list(sides) for key, sides in sizes.items()}}


def _resized(height: int, width: int, size: int) -> dict[str, Any]:
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    frame = make_frame(height, width, size)
    return {
        "from": [height, width],
        "to": list(frame.resized),
        "pixels": image.ravel().tolist(),
        "result": resize(image, frame).ravel().tolist(),
    }


def _maps() -> list[dict[str, Any]]:
    calibration = load_calibration("mobius-n")
    assert calibration is not None
    scores = [0.0, 1e-6, 0.001, 0.0123, 0.2, 0.3, 0.5, 0.77, 0.999, 1.0]
    own = StageMap(temperature=1.7, knots=((0.0, 0.05), (0.3, 0.2), (1.0, 0.9)))
    found = []
    for stage in (calibration.maps["names"].stages[-1], own, StageMap()):
        values = ScoreMaps(stages=(stage,)).apply(0, torch.tensor(scores, dtype=torch.float64))
        knots = [list(knot) for knot in stage.knots]
        found.append(
            {
                "map": {"temperature": stage.temperature, "knots": knots},
                "scores": scores,
                "values": values.tolist(),
            }
        )
    return found


def _instances(seed: int) -> dict[str, Any]:
    """Made-up outputs of a graph, and what the package makes of them."""
    draw = np.random.default_rng(seed)
    queries, columns, cells = 9, 3, (8, 12)
    scores = draw.random((queries, columns)).astype(np.float32).round(2)
    coarse = torch.from_numpy(draw.normal(-0.5, 2, (queries, 1, 3, 4)).astype(np.float32))
    fine = torch.nn.functional.interpolate(coarse, cells, mode="bilinear")
    masks = fine[:, 0].numpy().round(3)
    masks[5] = masks[4] + 0.01  # a duplicate
    masks[6] = -1  # an empty one
    boxes = draw.uniform(0.15, 0.6, (queries, 4)).astype(np.float32).round(3)
    boxes[5] = boxes[4]
    height, width = ((37, 50), (64, 90), (8, 12), (200, 310))[seed]
    frame = make_frame(height, width, 48)
    frame = type(frame)(original=frame.original, resized=frame.resized, padded=(32, 48))
    stage = StageMap(temperature=0.8, knots=((0.0, 0.0), (0.4, 0.3), (1.0, 0.95)))
    config = ModelConfig(name="case", backbone="test_efficientnet", nms_iou=0.7, mask_margin=1.25)
    job = Job(
        index=0,
        source=None,
        prompt=Prompt(names=("a", "b", "c")),
        frame=frame,
        pixels=np.zeros((1, 1, 3), np.uint8),
    )
    limits = Limits(0.35, 100, ScoreMaps(stages=(stage,)))
    read = QueryMasks(torch.from_numpy(boxes), cells, lambda q: torch.from_numpy(masks)[q])
    found, _ = build_instances(config, torch.from_numpy(scores), read, job, limits, 0)
    decoded = [np.asarray(coco_mask.decode(rle)) for rle in found.rles]  # type: ignore[arg-type]
    return {
        "scores": scores.ravel().tolist(),
        "boxes": boxes.ravel().tolist(),
        "masks": masks.ravel().tolist(),
        "dims": [queries, columns, *cells],
        "frame": {"original": frame.original, "resized": frame.resized, "padded": frame.padded},
        "model": {
            "nms_iou": config.nms_iou,
            "mask_margin": config.mask_margin,
            "calibration": {
                "names": {"temperature": 0.8, "knots": [list(knot) for knot in stage.knots]}
            },
        },
        "threshold": 0.35,
        "found": [
            {"name": name, "score": float(score), "runs": _runs(mask)}
            for name, score, mask in zip(found.names, found.scores, decoded, strict=True)
        ],
    }


def _runs(mask_HW: np.ndarray[Any, Any]) -> list[int]:
    """Starts and ends of the runs, row by row, in the flat picture; joined where rows touch."""
    flat = np.concatenate([[0], mask_HW.ravel(), [0]])
    return [int(at) for at in np.flatnonzero(np.diff(flat))]


if __name__ == "__main__":
    main()
