"""Closed forms: multiply-accumulates from the configuration alone, no network and no torch.

The backbone is left out: its cost is that of a timm model. Everything is for one image. With
C the width, N tokens of a map, T text tokens, K names, Q queries, I the width of the fusion and F
hidden widths: a linear map costs N * in * out, attention 2 * queries * keys * width.
"""

from collections.abc import Sequence
from itertools import pairwise

from mobius_seg.config import ModelConfig
from mobius_seg.cost.parts import DECODER, MASK_PRODUCT, MEMORY, PIXELS, SELECTION, TEXT, layer_name
from mobius_seg.cost.record import Workload, add_up
from mobius_seg.errors import InputError
from mobius_seg.name_limits import LIKELIEST, MANY

_CORNERS = 4  # values that a bilinear sample reads
_BIAS_INPUTS, _BIAS_HIDDEN = 4, 32  # decoder.BoxBias


def closed_form(
    config: ModelConfig,
    channels: Sequence[int],
    work: Workload,
    kept: Sequence[int] | None = None,
    *,
    selected: int | None = None,
    masks: int | None = None,
) -> dict[str, int]:
    """Cost by part of everything but the backbone.

    Args:
        config: of the model.
        channels: of the backbone's maps at strides 4, 8, 16, 32.
        work: image and prompt.
        kept: queries that each layer runs, one entry a layer that runs; None runs all of both.
        selected: queries that the selection picks; None picks what the first layer runs.
        masks: queries whose masks are computed at the end; None takes those of the last layer.

    Raises:
        InputError: more layers than the model has, or no query in one of them.
    """
    most = selected_queries(config, work)
    plan = [most] * config.decoder_layers if kept is None else [min(q, most) for q in kept]
    if len(plan) > config.decoder_layers or any(q < 1 for q in plan):
        raise InputError(
            f"kept is {list(kept or ())}; allowed: up to {config.decoder_layers} counts of one or"
            " more queries"
        )
    first = min(most, selected) if selected is not None else (plan[0] if plan else most)
    left = masks if masks is not None else (plan[-1] if plan else first)
    fixed = fixed_terms(config, channels, work, first)
    if not plan:
        fixed.pop(MEMORY, None)  # nobody reads it
    pairs = [*fixed.items()]
    for number, queries in enumerate(plan, start=1):
        for term, macs in layer_terms(config, work, queries).items():
            pairs.append((f"{DECODER}.{layer_name(number)}.{term}", macs))
    pairs.append((MASK_PRODUCT, mask_cost(config, work.height, work.width, left)))
    return add_up(pairs)


def selected_queries(config: ModelConfig, work: Workload) -> int:
    """Queries that the selection can pick: those of the model, or every token if these are less."""
    return min(config.queries, competing_tokens(config, work))


def competing_tokens(config: ModelConfig, work: Workload) -> int:
    """Tokens that the selection picks from."""
    return sum(_tokens(work, s) for s in config.token_strides)


def fixed_terms(
    config: ModelConfig, channels: Sequence[int], work: Workload, selected: int
) -> dict[str, int]:
    """Cost by part of text, pixel decoder, selection and shared memory.

    Args:
        config: of the model.
        channels: of the backbone's maps at strides 4, 8, 16, 32.
        work: image and prompt.
        selected: queries that the selection picks.
    """
    pixels = _bottleneck if config.pixel_decoder == "bottleneck" else _multiscale
    projected = 0 if work.text_known else work.text_tokens - 1
    terms = {TEXT: projected * config.text_dim * config.width}
    terms |= {f"{PIXELS}.{part}": macs for part, macs in pixels(config, channels, work).items()}
    if config.name_map:
        fine = _tokens(work, config.name_stride) * channels[2]
        coarse = _tokens(work, 32) * channels[3]
        terms[f"{PIXELS}.name_map"] = (fine + coarse) * config.width
    terms[SELECTION] = _selection(config, work, selected)
    if config.selection_masks:
        terms[MASK_PRODUCT] = mask_cost(config, work.height, work.width, selected)
    if config.share_value_projection:
        terms[MEMORY] = _memory(config, work)
    return terms


def layer_cost(config: ModelConfig, height: int, width: int, names: int, queries: int) -> int:
    """Cost of one decoder layer with its heads, and without the mask product.

    Args:
        config: of the model.
        height: of the image in pixels.
        width: of the image in pixels.
        names: columns K of the prompt.
        queries: that the layer runs.
    """
    work = Workload(height=height, width=width, names=names)
    return sum(layer_terms(config, work, queries).values())


def mask_cost(config: ModelConfig, height: int, width: int, queries: int) -> int:
    """Cost of the mask logits of so many queries at stride 4."""
    return queries * config.mask_width * (height // 4) * (width // 4)


def layer_terms(config: ModelConfig, work: Workload, queries: int) -> dict[str, int]:
    """Cost of one decoder layer by term; its own value projection is one of them where it has one.

    Args:
        config: of the model.
        work: image and prompt.
        queries: that the layer runs.
    """
    c, q = config.width, queries
    terms = (
        {} if config.share_value_projection else {"cross_attention.value": _memory(config, work)}
    )
    terms["position"] = q * 2 * c * c
    terms["self_attention"] = _self_attention(q, c)
    if config.cross_attention == "deformable":
        reading = _deformable(config, q, len(config.memory_strides))
    else:
        keys = sum(_tokens(work, s) for s in config.memory_strides)
        reading = q * c * c + 2 * q * keys * c + _box_bias(config, work, q)
    terms["cross_attention.attention"] = reading
    terms["cross_attention.output"] = q * c * c
    if config.box_reading:
        terms["box_reading"] = _box_reading(config, work, q)
    terms["ffn"] = 2 * q * c * config.decoder_ffn
    terms["heads"] = (
        _classifier(config, q, work.decoded_names)
        + _head(config, q, 4)
        + _head(config, q, config.mask_width)
        + _pooled_names(config, work, q)
        + _uncertainty(config, q)
    )
    return terms


def _box_reading(config: ModelConfig, work: Workload, queries: int) -> int:
    """Windows over rows, then over columns of the map, and the linear map of what was read."""
    height, width = _sides(work, config.box_stride)
    cells, channels = config.box_grid, config.box_reading
    return queries * cells * channels * (height * width + cells * width + cells * config.width)


def _uncertainty(config: ModelConfig, count: int) -> int:
    """The MLP of the uncertainty head, on the query, a text vector and their similarity."""
    hidden = config.width * config.uncertainty_head
    return count * hidden * (2 * config.width + 2)


def _pooled_names(config: ModelConfig, work: Workload, queries: int) -> int:
    """Masks at the name map's stride, and the means under them (naming.py)."""
    if not config.name_map:
        return 0
    return queries * _tokens(work, config.name_stride) * (config.mask_width + config.width)


def _bottleneck(config: ModelConfig, channels: Sequence[int], work: Workload) -> dict[str, int]:
    """Gather, fuse, mix, scatter (pixel_decoder.py)."""
    c, m, finest = config.width, config.mask_width, _tokens(work, 4)
    strides = _level_strides(config)
    levels = {stride: _tokens(work, stride) for stride in strides}
    here, everywhere = levels[config.bottleneck_stride], sum(levels.values())
    gather = here * m * c + sum(min(n, here) for n in levels.values()) * c * c
    fused = here if config.fusion == "bottleneck" else everywhere
    layer = 2 * here * c * config.mixing_ffn
    if config.mixing == "plain":
        layer += _self_attention(here, c)
    else:
        layer += everywhere * c * c + _deformable(config, here, len(levels)) + here * c * c
    return {
        "projections": finest * channels[0] * m + _projections(config, channels, levels),
        "gather": gather,
        "fuse": _fusion(config, fused, work.text_tokens, work.text_known),
        "mix": config.mixing_layers * layer,
        "scatter": sum(_refinement(config, n) for n in levels.values()),
        "mask_features": _mask_features(config, channels[0], levels[8], finest),
    }


def _multiscale(config: ModelConfig, channels: Sequence[int], work: Workload) -> dict[str, int]:
    """The baseline (multiscale.py)."""
    c, finest = config.width, _tokens(work, 4)
    levels = {stride: _tokens(work, stride) for stride in _level_strides(config)}
    tokens = sum(levels.values())
    fused = tokens if config.fusion == "levels" else levels[config.bottleneck_stride]
    layer = 2 * tokens * c * config.mixing_ffn
    if config.mixing == "plain":
        layer += _self_attention(tokens, c)
    else:
        layer += _deformable(config, tokens, len(levels)) + 2 * tokens * c * c
    return {
        "projections": _projections(config, channels, levels),
        "fuse": _fusion(config, fused, work.text_tokens, work.text_known),
        "mix": config.mixing_layers * layer,
        "mask_features": finest * (channels[0] * c + 9 * c * c + c * config.mask_width),
    }


def _projections(config: ModelConfig, channels: Sequence[int], levels: dict[int, int]) -> int:
    """1x1 convolutions at strides 8, 16, 32, a 3x3 one at 64."""
    inputs = dict(zip((8, 16, 32), channels[1:], strict=True)) | {64: 9 * channels[3]}
    return sum(count * inputs[stride] * config.width for stride, count in levels.items())


def _fusion(config: ModelConfig, image: int, text: int, known: bool) -> int:
    """Projections of both sides, then scores and readings of both directions."""
    c, inner = config.width, config.fusion_width
    each = 3 if config.share_fusion_scores else 4  # query (or key), value, output; scores
    projected = text if known else each * text  # of what is known, the output alone is left
    return (each * image + projected) * c * inner + each * image * text * inner


def _selection(config: ModelConfig, work: Workload, selected: int) -> int:
    """Scores of all tokens, boxes and mask vectors of the picked queries."""
    tokens = sum(_tokens(work, s) for s in config.token_strides)
    boxed = tokens if config.box_every_token else selected
    names = work.decoded_names
    return (
        _competition(config, tokens, selected, names)
        + _shortlist(config, work, tokens)
        + _head(config, boxed, 4)
        + _head(config, selected, config.mask_width)
        + selected * config.width**2
        + _uncertainty(config, selected)
    )


def _competition(config: ModelConfig, tokens: int, selected: int, names: int) -> int:
    """Scores by which tokens become queries."""
    c = config.width
    if 0 < config.candidates < tokens:
        return tokens * c * (c + 1) + config.candidates * c * (c + names)
    again = selected * c * names if names > MANY else 0  # logits of the picked tokens
    return _classifier(config, tokens, names) + again


def _shortlist(config: ModelConfig, work: Workload, tokens: int) -> int:
    """Object scores of all tokens, all names at the likeliest of them (selection.py)."""
    if not work.shortlist:
        return 0
    likeliest = min(LIKELIEST, tokens)
    c = config.width
    return tokens * c * (c + 1) + likeliest * c * (c + work.names)


def _memory(config: ModelConfig, work: Workload) -> int:
    """Values, and for plain attention keys, of all memory tokens."""
    tokens = sum(_tokens(work, s) for s in config.memory_strides)
    maps = 1 if config.cross_attention == "deformable" else 2
    boxes = _tokens(work, config.box_stride) * config.box_reading
    return maps * tokens * config.width**2 + boxes * config.width


def _classifier(config: ModelConfig, count: int, names: int) -> int:
    """Two embeddings, K cosines and that of "object"."""
    return count * config.width * (2 * config.width + names + 1)


def _head(config: ModelConfig, count: int, out: int) -> int:
    """The MLP of a box or mask head."""
    widths = [config.width] * config.head_layers + [out]
    return count * sum(before * after for before, after in pairwise(widths))


def _self_attention(count: int, width: int) -> int:
    """Four projections, scores and readings."""
    return 4 * count * width**2 + 2 * count**2 * width


def _deformable(config: ModelConfig, count: int, levels: int) -> int:
    """Offsets, weights and samples of deformable attention; the output projection left out."""
    samples = levels * config.deformable_points
    return count * config.width * samples * (3 * config.heads + _CORNERS)


def _box_bias(config: ModelConfig, work: Workload, queries: int) -> int:
    """A small MLP for each row and each column of each level."""
    lines = sum(sum(_sides(work, stride)) for stride in config.memory_strides)
    return queries * lines * _BIAS_HIDDEN * (_BIAS_INPUTS + config.heads)


def _refinement(config: ModelConfig, tokens: int) -> int:
    """The SeparableRefinement or WideRefinement of a level, once or more."""
    c = config.width
    one = tokens * (config.refine_kernel**2 * c + 2 * config.refine_expansion * c * c)
    if config.refine_expansion == 0:
        one = _separable(tokens, c)
    return config.refine_layers * one


def _mask_features(config: ModelConfig, channels: int, coarse: int, fine: int) -> int:
    """From strides 8 and 4 to the features of masks."""
    c, m, inner = config.width, config.mask_width, config.mask_conv
    if not inner:
        return coarse * c * m + _separable(fine, m) + fine * m * m
    down = coarse * c * inner if inner != c else 0
    return down + fine * (channels * inner + 9 * inner * inner + inner * m)


def _separable(count: int, channels: int) -> int:
    """Depthwise 3x3 and pointwise 1x1 convolution."""
    return count * channels * (9 + channels)


def _level_strides(config: ModelConfig) -> tuple[int, ...]:
    """Strides of the levels beside stride 4; 64 only where something uses it."""
    used = {config.bottleneck_stride, *config.memory_strides, *config.token_strides}
    return (8, 16, 32, 64) if 64 in used else (8, 16, 32)


def _tokens(work: Workload, stride: int) -> int:
    height, width = _sides(work, stride)
    return height * width


def _sides(work: Workload, stride: int) -> tuple[int, int]:
    """Height and width of a map; that of stride 64 is rounded up."""
    return -(-work.height // stride), -(-work.width // stride)
