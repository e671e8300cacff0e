"""Making instances holds neither all masks nor a whole large one, measured in own processes.

The high-water mark of this process would hide what a test adds: earlier tests have raised it.
"""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import torch
from mobius_seg import postprocess
from mobius_seg.machine import peak_mb
from mobius_seg.preprocess import make_frame
from mobius_seg.types import LayerOutput, ModelOutput

count, height, width, size, strip, chunk, whole = map(int, sys.argv[1:])
torch.set_num_threads(1)
postprocess._STRIP_VALUES, postprocess._CHUNK_VALUES = strip, chunk

def output(count, frame):
    # features x, y, x^2 + y^2 and 1: the vectors of the queries make discs of them
    h, w = frame.padded[0] // 4, frame.padded[1] // 4
    y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
    at = torch.linspace(0.1, 0.9, count)
    radius = torch.where(torch.arange(count) < whole, 2.0, 0.05)
    embed = torch.stack([2 * at, 2 * at, -torch.ones(count), radius**2 - 2 * at**2], 1)
    layer = LayerOutput(
        torch.zeros(1, count, 1), torch.zeros(1, count), torch.full((1, count, 4), 0.5), embed[None]
    )
    features = torch.stack([x, y, x**2 + y**2, torch.ones(h, w)])
    return ModelOutput([layer], features[None], torch.zeros(1, 1, 4))

small = make_frame(64, 64, 64)
postprocess.encode_masks(output(2, small), 0, torch.arange(2), small)
frame = make_frame(height, width, size)
given = output(count, frame)
before = peak_mb()
found, _ = postprocess.distinct_masks(
    given, torch.arange(count), frame, nms_iou=1.0, margin=0.0, most=count
)
assert len(found) == count
assert all(rle["size"] == [height, width] for rle in found.values())
print(peak_mb() - before, peak_mb())
"""


def _grown(*arguments: int) -> tuple[float, float]:
    """MB that making the masks added to the peak, and the peak of the whole process."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, peak = map(float, done.stdout.split())
    return grown, peak


def test_strips_and_chunks_bound_the_memory() -> None:
    """Whole: 48 MB of logits of 400 instances, 30 MB for each copy of one mask's values."""
    grown, _ = _grown(400, 2500, 3000, 700, 100_000, 500_000, 3)
    assert grown < 25


@pytest.mark.slow
def test_300_instances_of_12_megapixels_stay_below_one_and_a_half_gigabytes() -> None:
    """All masks at once are 3.6 GB as bytes and 14 GB as values."""
    grown, peak = _grown(300, 3000, 4000, 1536, 4_000_000, 16_000_000, 20)
    assert grown < 500
    assert peak < 1500
