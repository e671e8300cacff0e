"""Wall time of the decoder under pruning, and of ways to run images that keep different numbers.

Per image and per batch, with random weights by default: time depends on how many queries run, not
on what they say. ``groups`` is what the package does (images with equally many queries together),
``single`` runs every image alone, ``padded`` runs all with the largest number of a batch.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import mobius_seg
from conditions import conditions, store
from mobius_seg.pruned_decoder import decode, run_pruned
from mobius_seg.pruning import PruningPolicy
from mobius_seg.types import Encoded, TextPrompt

NAMES = 80
_CLOCK = [time.perf_counter]


def main() -> None:
    """Measure and store ``results/pruning_speed_<model>.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobius-n", help="preset, or a folder of weights")
    parser.add_argument("--size", type=int, help="side of the square input")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--trial", action="store_true", help="print, do not store")
    parser.add_argument("--cpu-time", action="store_true", help="a trial on a busy machine")
    options = parser.parse_args()
    if options.cpu_time:
        options.trial, _CLOCK[0] = True, time.process_time
    torch.set_num_threads(options.threads)
    is_folder = Path(options.model).is_dir()
    model = mobius_seg.load(options.model, random_weights=not is_folder)
    config, network = model.config, model.network
    size = options.size or config.input_size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(options.batch, 3, size, size, generator=generator).to(model.device)
    names = torch.randn(1, NAMES, config.text_dim, generator=generator)
    prompt = TextPrompt(torch.nn.functional.normalize(names, dim=-1)).to(model.device)
    queries, depth = config.queries, config.decoder_layers
    with torch.inference_mode():
        encoded = network.encode(images, prompt)
        one = network.encode(images[:1], prompt)
        encoder_ms = _median_ms(lambda: network.encode(images[:1], prompt), options.runs)
        alone = {"encoder_ms": encoder_ms}
        for share in (1.0, 0.5, 0.25, 0.1):
            count = max(1, round(queries * share))
            policy = PruningPolicy.static((queries, count)) if share < 1 else PruningPolicy()
            alone[f"decoder_ms, {count} queries from layer 2"] = _median_ms(
                lambda policy=policy: run_pruned(network, one, policy), options.runs
            )
        for layers in range(depth):
            policy = PruningPolicy(layers=layers)
            alone[f"decoder_ms, {layers} layers"] = _median_ms(
                lambda policy=policy: run_pruned(network, one, policy), options.runs
            )
        # Image i keeps its own share of the queries after layer 1, as adaptive pruning would.
        counts = [
            max(1, round(queries * (0.1 + 0.3 * i / options.batch))) for i in range(options.batch)
        ]
        ways = _ways(model, images, prompt, encoded, counts)
        together = {way: _median_ms(call, options.runs) for way, call in ways.items()}
    print({"alone": alone, "counts": counts, "batch_ms": together})
    if options.trial:
        return
    facts = conditions(threads=options.threads, precision="float32", names=NAMES, size=size)
    result = {"conditions": facts, "alone": alone, "counts": counts, "batch_ms": together}
    store(f"pruning_speed_{Path(options.model).name}", result)


def _ways(
    model: mobius_seg.Predictor,
    images: torch.Tensor,
    prompt: TextPrompt,
    encoded: Encoded,
    counts: list[int],
) -> dict[str, Callable[[], object]]:
    """Decoding a batch in three ways, and unpruned."""
    network, stages = model.network, model.config.decoder_layers
    policy = PruningPolicy(thresholds=(0.0,), floors=((0.0,), *((2.0,),) * (stages - 1)))

    def rank(stage: int, image: int, index: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
        best = score.topk(min(counts[image], len(score))).indices
        return score if stage == 0 else score.index_fill(0, best, 4.0)

    singles = [network.encode(images[i : i + 1], prompt) for i in range(len(counts))]

    def single() -> None:
        for image, own in enumerate(singles):

            def own_rank(
                stage: int, _: int, index: torch.Tensor, score: torch.Tensor, image: int = image
            ) -> torch.Tensor:
                return rank(stage, image, index, score)

            run_pruned(network, own, policy, rank=own_rank)

    padded = PruningPolicy.static((model.config.queries, max(counts)))
    return {
        "unpruned": lambda: run_pruned(network, encoded, PruningPolicy()),
        "groups": lambda: list(decode(network, encoded, policy, rank=rank)),
        "single": single,
        "padded": lambda: run_pruned(network, encoded, padded),
    }


def _median_ms(call: Callable[[], object], runs: int) -> float:
    """Median wall time in milliseconds after two calls to warm up."""
    times = []
    for run in range(runs + 2):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = _CLOCK[0]()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if run >= 2:
            times.append(1000 * (_CLOCK[0]() - start))
    return round(statistics.median(times), 2)


if __name__ == "__main__":
    main()
