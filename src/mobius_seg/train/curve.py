"""The learning curve of a run as a picture."""

from collections.abc import Sequence
from pathlib import Path

from mobius_seg.files import atomic_path


def draw_curve(log: Sequence[dict[str, float]], path: Path) -> None:
    """Draw loss, mask quality and learning rate against images seen.

    Args:
        log: lines of the run's ``log.jsonl``; an empty log draws nothing.
        path: PNG file.
    """
    if not log:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    images = [line["images"] for line in log]
    for axis, key, label in zip(
        axes,
        ("loss", "quality", "lr"),
        ("loss (all stages)", "quality of matched queries, last layer", "learning rate"),
        strict=True,
    ):
        axis.plot(images, [line[key] for line in log], linewidth=1)
        axis.set_xlabel("images seen")
        axis.set_title(label, fontsize=10)
        axis.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)
