"""Wall time of the decoder at each operating point, in torch and in ONNX Runtime.

The decoder is everything after the pixel decoder: selection, layers, masks. In torch it is timed
by itself; a graph is one piece, so that its decoder is the time of the whole graph less that of a
graph that ends before the decoder. All contenders take turns, block by block, and ratios to
``full`` are medians over the blocks. Random weights by default: fixed schedules take the same time
whatever the network says.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from conditions import conditions, store
from mobius_seg.export.graph import ExportGraph, example_inputs, program_shapes
from mobius_seg.export.onnx_file import onnx_model, save_onnx, write_onnx
from mobius_seg.export.request import open_source
from mobius_seg.export.schedule import find_schedule
from mobius_seg.export.spec import IMAGE
from mobius_seg.pruned_decoder import run_pruned
from mobius_seg.types import TextPrompt

NAMES = 80
POINTS = ("full", "balanced", "fast")


class BeforeDecoder(nn.Module):
    """A graph up to the decoder.

    Args:
        graph: the whole.
    """

    def __init__(self, graph: ExportGraph) -> None:
        """See the class."""
        super().__init__()
        self.whole = graph

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Everything that the decoder reads of a picture [B, 3, H, W]."""
        encoded = self.whole.encode(image, None)
        read = self.whole.network.config
        strides = sorted({*read.token_strides, *read.memory_strides})
        maps = [encoded.maps[stride] for stride in strides]
        names = [] if encoded.names is None else [encoded.names.names_BChw]
        return (*maps, *names, encoded.mask_features_BMhw)


def main() -> None:
    """Measure and store ``results/decoder_speed_<model>.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobius-m", help="preset, or a folder of weights")
    parser.add_argument("--size", type=int, default=640, help="side of the square input")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--trial", action="store_true", help="print, do not store")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = open_source(options.model)
    network, size = source.network.eval(), (options.size, options.size)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(1, NAMES, network.config.text_dim, generator=generator)
    prompt = TextPrompt(nn.functional.normalize(vectors, dim=-1))
    schedules = {p: find_schedule(network.config, source.points, p) for p in POINTS}
    image = torch.rand(1, 3, *size, generator=generator)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        encoded = network.encode(image, prompt)
        calls: dict[str, Callable[[], object]] = {}
        for point, schedule in schedules.items():
            calls[f"torch {point}"] = lambda policy=schedule.policy: run_pruned(
                network, encoded, policy
            )
        for point, schedule in schedules.items():
            graph = ExportGraph(network, schedule.policy, prompt)
            file = Path(folder) / f"{point}.onnx"
            write_onnx(graph, file, size)
            calls[f"onnx {point}"] = _session(file, image, options.threads)
        file = Path(folder) / "encoder.onnx"
        _write_encoder(graph, file, size)
        calls["onnx encoder"] = _session(file, image, options.threads)
        times = _take_turns(calls, options.blocks)
    for block, encoder in enumerate(times.pop("onnx encoder")):
        for point in POINTS:
            times[f"onnx {point}"][block] -= encoder
    rows = {
        name: {
            "decoder_ms_median": round(statistics.median(found), 2),
            "ratio_to_full": round(
                statistics.median(
                    one / whole
                    for one, whole in zip(found, times[f"{name.split()[0]} full"], strict=True)
                ),
                3,
            ),
            "layers": schedules[name.split()[1]].policy.depth(network.config.decoder_layers),
        }
        for name, found in times.items()
    }
    for name, row in rows.items():
        print(name, row)
    if options.trial:
        return
    facts = conditions(
        threads=options.threads, precision="float32", names=NAMES, size=options.size, batch=1
    )
    store(f"decoder_speed_{Path(options.model).name}", {"conditions": facts, "rows": rows})


def _write_encoder(graph: ExportGraph, file: Path, size: tuple[int, int]) -> None:
    """The part before the decoder as an ONNX file."""
    inputs = example_inputs(graph, *size)
    part = BeforeDecoder(graph)
    with torch.inference_mode():
        outputs = [f"out{i}" for i in range(len(part(*inputs)))]
    model = onnx_model(part, inputs, [IMAGE], outputs, program_shapes(graph))
    save_onnx(model, file, {})


def _session(file: Path, image: Tensor, threads: int) -> Callable[[], object]:
    """One call of a graph in ONNX Runtime, without spinning threads."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), settings, ["CPUExecutionProvider"])
    feed = {IMAGE: np.ascontiguousarray(image.numpy())}
    return lambda: session.run(None, feed)


def _take_turns(calls: dict[str, Callable[[], object]], blocks: int) -> dict[str, list[float]]:
    """Milliseconds of each call in each block: the best of three, after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for block in range(blocks + 1):
        for name, call in calls.items():
            tries = []
            for _ in range(3):
                start = time.perf_counter()
                call()
                tries.append(1000 * (time.perf_counter() - start))
            if block:
                times[name].append(min(tries))
    return times


if __name__ == "__main__":
    main()
