"""Where existing architectures spend their cost as the backbone shrinks.

The baseline's decoders behind smaller and smaller backbones: what is left is what a smaller
backbone cannot save.
"""

from dataclasses import replace

from mobius_seg.cost.certify import certified_profile
from mobius_seg.cost.record import Profile, workload
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
