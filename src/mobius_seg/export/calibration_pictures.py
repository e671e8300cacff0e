"""Pictures that int8 takes its ranges from, as the graph's inputs."""

from collections.abc import Sequence
from pathlib import Path

from mobius_seg.errors import InputError
from mobius_seg.export.session import Array
from mobius_seg.export.spec import IMAGE, TEXT
from mobius_seg.imageio import image_suffixes, load_image
from mobius_seg.preprocess import make_fixed_frame, pad_and_stack, resize


def calibration_feeds(
    folder: Path, limit: int, size: tuple[int, int], text_KD: Array | None
) -> list[dict[str, Array]]:
    """Inputs of a graph for the pictures of a folder.

    Args:
        folder: its pictures are taken in the order of their names, evenly spread.
        limit: how many at most.
        size: height and width of the graph's input.
        text_KD: text vectors, where the vocabulary is an input.

    Raises:
        InputError: the folder has no picture, or one cannot be read.
    """
    suffixes = image_suffixes()
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes)
    if not files:
        raise InputError(f"{folder}: has no pictures to calibrate with")
    feeds = []
    for file in _spread(files, limit):
        image = load_image(file)
        frame = make_fixed_frame(image.shape[0], image.shape[1], size)
        feed: dict[str, Array] = {IMAGE: pad_and_stack([resize(image, frame)], frame).numpy()}
        feeds.append(feed if text_KD is None else {**feed, TEXT: text_KD})
    return feeds


def _spread(files: Sequence[Path], limit: int) -> list[Path]:
    """At most so many, from the whole range."""
    count = min(limit, len(files))
    return [files[i * len(files) // count] for i in range(count)]
