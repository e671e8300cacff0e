"""Where existing architectures spend their cost as the backbone shrinks.

The baseline's decoders behind smaller and smaller backbones: what is left is what a smaller
backbone cannot save.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mobius_seg.cost.certify import certified_profile
from mobius_seg.cost.record import Profile, workload
from mobius_seg.errors import InputError
from mobius_seg.presets import get_preset

BASELINE = "glee-lite"
BACKBONES = ("resnet50", "tf_efficientnet_lite2", "tf_efficientnet_lite0")
PARTS = ("backbone", "projections", "fusion", "mixing", "stride 4", "decoder", "masks", "text")


def limits(size: tuple[int, int], names: int, text_tokens: int) -> dict[str, Profile]:
    """Cost of the baseline behind each backbone.

    Args:
        size: height and width in pixels, multiples of 32.
        names: columns of the prompt.
        text_tokens: text tokens in the fusion.
    """
    base = get_preset(BASELINE)
    work = workload(base, size, names, text_tokens)
    return {
        backbone: certified_profile(replace(base, backbone=backbone), work)
        for backbone in BACKBONES
    }


def bars(profiles: dict[str, Profile]) -> dict[str, dict[str, float]]:
    """GMAC of each profile by :data:`PARTS`."""
    found = {}
    for name, profile in profiles.items():
        masks = profile.part_gmac("transformer_decoder.mask_product")
        values = (
            profile.part_gmac("backbone"),
            profile.part_gmac("pixel_decoder.projections"),
            profile.part_gmac("pixel_decoder.fuse"),
            profile.part_gmac("pixel_decoder.mix"),
            profile.part_gmac("pixel_decoder.mask_features"),
            profile.part_gmac("transformer_decoder") - masks,
            masks,
            profile.part_gmac("text"),
        )
        found[name] = dict(zip(PARTS, values, strict=True))
    return found


def save_picture(path: Path, bars: Mapping[str, Mapping[str, float]]) -> None:
    """Draw a stacked bar for each model.

    Args:
        path: picture to write; its ending says which kind.
        bars: model -> GMAC by part.

    Raises:
        InputError: matplotlib is not installed, or the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError('the picture needs matplotlib: pip install "mobius-seg[train]"') from None
    from mobius_seg.files import atomic_path

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    labels, below = list(bars), [0.0] * len(bars)
    for part in next(iter(bars.values())):
        heights = [bars[label][part] for label in labels]
        axes.bar(labels, heights, bottom=below, label=part.replace("_", " "))
        below = [a + b for a, b in zip(below, heights, strict=True)]
    axes.set_ylabel("GMAC")
    axes.legend(loc="upper right", fontsize="small")
    kind = path.suffix.removeprefix(".") or "png"
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=120)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no picture can be written: {error}") from None
