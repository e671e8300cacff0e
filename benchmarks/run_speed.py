"""Time per image of a model in eager mode, and its cost by part.

Two times a size, taken in turns: the whole ``predict`` call (resizing, network, masks as run
lengths) and the network alone, without masks. The picture is a square photograph resized to the
input, so nothing is padding.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import mobius_seg
from conditions import conditions, store
from mobius_seg.bundle_names import COCO_NAMES
from mobius_seg.preprocess import make_frame, pad_and_stack
from mobius_seg.profile import preset_profile
from mobius_seg.pruned_decoder import run_pruned
from mobius_seg.pruning import PruningPolicy
from mobius_seg.types import TextPrompt

WARM_UP = 5
NAMES = len(COCO_NAMES)  # 80; the stated costs are at this vocabulary
PHOTO = "coffee.png"


def main() -> None:
    """Measure and store ``results/speed_<model>.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobius-n", help="preset name or folder of weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--random-weights", action="store_true", help="a trial, not stored")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trial = arguments.random_weights
    model = mobius_seg.load(arguments.model, device="cpu", random_weights=trial)
    photo, names = _photo(), list(COCO_NAMES)
    sizes = sorted({model.config.input_size, 640})
    result: dict[str, Any] = {}
    for size in sizes:
        picture = np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC))
        found = model.predict(picture, names=names, size=size)
        whole, network = _medians_ms(
            (
                lambda picture=picture, size=size: model.predict(picture, names=names, size=size),
                _network_call(model, picture),
            ),
            arguments.runs,
        )
        result[str(size)] = {
            "predict_ms": whole,
            "network_ms": network,
            "instances": len(found),
            **_cost(model.config.name, size),
        }
        print(size, result[str(size)])
    if trial:
        return
    facts = conditions(
        threads=arguments.threads, precision="float32", batch=1, names=NAMES, mode="eager"
    )
    name = Path(arguments.model).name
    store(f"speed_{name}", {"conditions": facts, "runs": arguments.runs, "sizes": result})


def _cost(name: str, size: int) -> dict[str, Any]:
    """GMAC of the preset by part: the parts of the overview, and their details."""
    profile = preset_profile(name, size, NAMES)
    parts = list(dict.fromkeys(part.partition(".")[0] for part in profile.macs))
    grouped = {part.replace("_", " "): round(profile.part_gmac(part), 4) for part in parts}
    detail = {part: round(macs / 1e9, 4) for part, macs in profile.macs.items()}
    return {"gmac": grouped | {"total": round(profile.gmac, 4)}, "gmac_detail": detail}


def _network_call(model: mobius_seg.Predictor, picture: np.ndarray) -> Callable[[], object]:
    """The network alone on the same picture, random unit vectors as the vocabulary."""
    # As predict lays it out, channels last: with channels first the convolutions take longer, so
    # that the network alone once seemed to take more time than the call around it.
    image = pad_and_stack([picture], make_frame(*picture.shape[:2], max(picture.shape[:2])))
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(1, NAMES, model.config.text_dim, generator=generator)
    prompt = TextPrompt(torch.nn.functional.normalize(vectors, dim=-1))

    def call() -> object:
        with torch.inference_mode():
            encoded = model.network.encode(image, prompt)
            return run_pruned(model.network, encoded, PruningPolicy())

    return call


def _medians_ms(calls: Sequence[Callable[[], object]], runs: int) -> list[dict[str, float]]:
    """Median and tenth and ninetieth percentile of calls that take turns, in milliseconds."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(WARM_UP + runs):
        for call, mine in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if turn >= WARM_UP:
                mine.append(1000 * (time.perf_counter() - start))
    return [_summary(mine) for mine in times]


def _summary(times: Sequence[float]) -> dict[str, float]:
    deciles = statistics.quantiles(times, n=10)
    values = {"median": statistics.median(times), "p10": deciles[0], "p90": deciles[-1]}
    return {key: round(value, 1) for key, value in values.items()}


def _photo() -> Image.Image:
    """The middle square of a photograph from scikit-image."""
    import skimage

    with Image.open(Path(skimage.__file__).parent / "data" / PHOTO) as image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.convert("RGB").crop((left, top, left + side, top + side))


if __name__ == "__main__":
    main()
