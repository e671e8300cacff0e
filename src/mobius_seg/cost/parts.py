"""Names of the parts of a forward pass, and which part a module belongs to."""

import re
import sys

BACKBONE = "backbone"
TEXT = "text"
PIXELS = "pixel_decoder"
DECODER = "transformer_decoder"
SELECTION = f"{DECODER}.selection"
MEMORY = f"{DECODER}.memory"
MASK_PRODUCT = f"{DECODER}.mask_product"
GROUPS = (BACKBONE, PIXELS, DECODER, TEXT)
RECOGNITION = "recognition"
"""What only predictions with `recognise` have."""

_TERMS = (
    *("projections", "gather", "fuse", "mix", "scatter", "mask_features", "name_map", "selection"),
    *("memory", "position", "self_attention", "cross_attention.value", "cross_attention.attention"),
    *("cross_attention.output", "box_reading", "ffn", "heads", "mask_product"),
)

# Module name -> part; of several names that fit, the longest counts. "#" is a number, {here} the
# decoder layer of that number, {next} the one after the last that ran, {last} that one.
_PARTS = {
    "backbone": BACKBONE,
    "text_projection": TEXT,
    "object_token": TEXT,
    "object_column": TEXT,
    "pixel_decoder.lateral4": f"{PIXELS}.projections",
    "pixel_decoder.laterals": f"{PIXELS}.projections",
    "pixel_decoder.gather": f"{PIXELS}.gather",
    "pixel_decoder.fuse": f"{PIXELS}.fuse",
    "pixel_decoder.mix": f"{PIXELS}.mix",
    "pixel_decoder.level": f"{PIXELS}.mix",
    "pixel_decoder.gates": f"{PIXELS}.scatter",
    "pixel_decoder.refine": f"{PIXELS}.scatter",
    "pixel_decoder.to_mask": f"{PIXELS}.mask_features",
    "pixel_decoder.refine4": f"{PIXELS}.mask_features",
    "pixel_decoder.pyramid": f"{PIXELS}.mask_features",
    "pixel_decoder.pyramid_in": f"{PIXELS}.mask_features",
    "pixel_decoder.pyramid_out": f"{PIXELS}.mask_features",
    "pixel_decoder.mask_features": f"{PIXELS}.mask_features",
    "name_map": f"{PIXELS}.name_map",
    "decoder.selection": SELECTION,
    "decoder.memory": MEMORY,
    "decoder.memories.#": f"{DECODER}.{{here}}.cross_attention.value",
    "decoder.position": f"{DECODER}.{{next}}.position",
    "decoder.layers.#.self_attention": f"{DECODER}.{{here}}.self_attention",
    "decoder.layers.#": f"{DECODER}.{{here}}.cross_attention.attention",
    "decoder.layers.#.cross_deformable.out": f"{DECODER}.{{here}}.cross_attention.output",
    "decoder.layers.#.cross_out": f"{DECODER}.{{here}}.cross_attention.output",
    "decoder.layers.#.box_reader": f"{DECODER}.{{here}}.box_reading",
    "decoder.layers.#.feed_forward": f"{DECODER}.{{here}}.ffn",
    "decoder.heads": f"{DECODER}.{{last}}.heads",
    "mask_product": MASK_PRODUCT,
}
_LAYER = re.compile(r"decoder\.(?:layers|memories)\.(\d+)")
# Modules that all layers share: in the count of parameters they belong to none of them.
_SHARED = {"decoder.position": f"{DECODER}.position", "decoder.heads": f"{DECODER}.heads"}


def layer_name(number: int) -> str:
    """Name of a decoder layer, the first being 1."""
    return f"layer{number}"


def part_order(part: str) -> tuple[int, int, int]:
    """Sorting key that puts parts in the order of the forward pass, layer by layer.

    Args:
        part: a part of a count.
    """
    steps = part.split(".")
    group = (BACKBONE, TEXT, PIXELS, DECODER, RECOGNITION).index(steps[0])
    layer = re.fullmatch(r"layer(\d+)", steps[1]) if len(steps) > 1 else None
    term = ".".join(steps[2:]) if layer else ".".join(steps[1:])
    before = {"mask_product": sys.maxsize}.get(term, 0)
    return group, int(layer[1]) if layer else before, _TERMS.index(term) if term in _TERMS else 0


def parameter_part(name: str) -> str | None:
    """Part of a parameter; what all layers share stands beside them."""
    prefix = _longest(name)
    return _SHARED.get(prefix or "") or Follower().part(name)


class Follower:
    """Names the part of each module as they run one after the other.

    Modules that all decoder layers share (heads, position) belong to the layer that runs.
    """

    def __init__(self) -> None:
        """See the class."""
        self._last = 0

    def part(self, module: str) -> str | None:
        """Part of the module or parameter that comes next; None above all parts."""
        prefix = _longest(module)
        if prefix is None:
            return None
        found = _LAYER.match(module)
        if prefix == "decoder.selection":
            self._last = 0
        elif found and prefix != "decoder.memories.#":
            self._last = int(found[1]) + 1
        if prefix == "decoder.heads" and self._last == 0:
            return SELECTION
        return _PARTS[prefix].format(
            here=layer_name(int(found[1]) + 1) if found else "",
            last=layer_name(self._last),
            next=layer_name(self._last + 1),
        )


def _longest(name: str) -> str | None:
    """The longest entry that a module's or parameter's name begins with."""
    steps = _key(name).split(".")
    names = (".".join(steps[:end]) for end in range(len(steps), 0, -1))
    return next((name for name in names if name in _PARTS), None)


def _key(name: str) -> str:
    return re.sub(r"^(decoder\.(?:layers|memories))\.\d+", r"\1.#", name)
