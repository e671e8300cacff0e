"""What the presets cost; ``python -m mobius_seg.profile`` prints the figures that they state.

The counting itself stands in :mod:`mobius_seg.cost`, the command ``mobius-seg profile`` in
``cost/command.py``.
"""

import math
import sys

from mobius_seg.cost.dispatch import profile_of
from mobius_seg.cost.record import Profile, stated_text_tokens, workload
from mobius_seg.presets import PRESETS, get_preset


def preset_profile(
    name: str, size: int | tuple[int, int] | None = None, names: int = 80
) -> Profile:
    """Cost of a preset for one image, on the meta device: no memory, no weights, no arithmetic.

    Args:
        name: a preset.
        size: side of the square image, or height and width, in pixels and multiples of 32; None
            takes the preset's input size.
        names: number of names asked for; a model that fuses sub-words gets 3.25 tokens a name.

    Raises:
        InputError: no preset has this name, or the size is not a multiple of 32.
    """
    config = get_preset(name)
    sides = size if isinstance(size, tuple) else (size or config.input_size,) * 2
    return profile_of(config, workload(config, sides, names, stated_text_tokens(names)))


def _stated(profile: Profile) -> str:
    """The two fields of a preset that a profile fixes, as they are written there."""
    digits = max(0, 2 - math.floor(math.log10(profile.gmac)))
    gmac = float(f"{profile.gmac:.3g}")
    return f"expected_params={profile.total_parameters:_}, expected_gmac={gmac:.{max(digits, 1)}f}"


def _report(names: list[str]) -> None:
    """Print what each preset should state, whether it does, and its cost by part."""
    for name in names:
        config, profile = get_preset(name), preset_profile(name)
        stated = config.expected_params, config.expected_gmac
        fits = stated == (profile.total_parameters, float(f"{profile.gmac:.3g}"))
        print(f"{name}: {_stated(profile)}{'' if fits else f'  # preset states {stated}'}")
        for part in dict.fromkeys([*profile.macs, *profile.parameters]):
            macs, params = profile.macs.get(part, 0), profile.parameters.get(part, 0)
            print(f"    {part:<52} {macs / 1e9:>10.4f} GMAC {params:>12,} parameters")


if __name__ == "__main__":
    _report(sys.argv[1:] or list(PRESETS))
