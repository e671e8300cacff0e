"""What a model is, as data: one frozen dataclass, written as JSON beside the weights."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from mobius_seg.errors import InputError
from mobius_seg.files import write_text
from mobius_seg.json_values import is_number, parse_json

Mixing = Literal["plain", "deformable"]
PixelDecoderForm = Literal["bottleneck", "multiscale"]
FusionPlace = Literal["bottleneck", "levels"]
BoxSteps = Literal["logit", "relative"]
_CHOICES: dict[str, tuple[str, ...]] = {
    "mixing": get_args(Mixing),
    "cross_attention": get_args(Mixing),
    "pixel_decoder": get_args(PixelDecoderForm),
    "fusion": get_args(FusionPlace),
    "box_steps": get_args(BoxSteps),
}

# Lowest and highest value of the counts: what a file asks for is built before its weights are read.
_RANGES = (
    ("mixing_layers", 0, 64),
    ("head_layers", 1, 16),
    ("queries", 1, 10_000),
    ("decoder_layers", 1, 64),
    ("input_size", 32, 8192),
    ("width", 8, 8192),
    ("mask_width", 2, 8192),
    ("heads", 1, 256),
    ("mixing_ffn", 1, 65_536),
    ("decoder_ffn", 1, 65_536),
    ("fusion_width", 1, 65_536),
    ("deformable_points", 1, 64),
    ("text_dim", 1, 65_536),
    ("refine_expansion", 0, 16),
    ("refine_layers", 1, 64),
    ("mask_conv", 0, 4096),
    ("candidates", 0, 65536),
    ("box_reading", 0, 4096),
    ("box_grid", 1, 32),
    ("gate_init", -100, 100),
    ("prior_logit", -100, 100),
    ("initial_scale", 0.01, 10_000),
    ("max_scale", 0.01, 10_000),
)
_LOADING = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Every choice that shapes the network; the same values rebuild the same network.

    Attributes:
        name: preset name, e.g. ``mobius-n``.
        backbone: timm model name.
        backbone_args: further arguments of ``timm.create_model`` as (name, value) pairs.
        pyramid: build a simple feature pyramid from the last map (plain ViTs have one stride only).
        input_size: longest side in pixels that ``predict`` resizes to unless told otherwise.
        image_mean: per-channel mean in 0..1 that is subtracted from the image.
        image_std: per-channel deviation in 0..1 that the image is divided by.
        pixel_decoder: where scales are mixed: at one bottleneck, or over the tokens of every scale
            (the baseline, multiscale.py).
        bottleneck_stride: stride b of the bottleneck, a power of two, 8..64.
        width: channels C of tokens and queries, a multiple of 8.
        mask_width: channels of the mask features at stride 4.
        heads: attention heads; divides ``width``.
        mixing: token mixing at the bottleneck: plain attention or multi-scale deformable attention.
        mixing_layers: number of mixing layers.
        mixing_ffn: hidden width of the feed-forward part of a mixing layer.
        fusion: where text is fused: into the tokens of stride b, or into those of every scale.
        share_fusion_scores: one product of image and text serves both directions of the fusion, as
            in GLIP and the baseline; otherwise each direction has queries and keys of its own.
        fuse_subwords: names bring their sub-word tokens into the fusion, as in the baseline.
        fusion_width: inner width of the image-text attention.
        name_map: read names off the backbone by a map of its own (naming.py).
        name_stride: stride of that map, 16 or 32; queries pool it at every stage, so the coarser
            one costs a quarter there.
        token_strides: strides whose tokens compete to become queries.
        memory_strides: strides whose tokens the decoder attends to.
        queries: number of queries Q.
        candidates: tokens most like objects that are compared with the names (selection.py), at
            least as many as queries; 0 = all tokens are.
        box_every_token: the selection predicts the box of every token, not of the picked ones only;
            the result is the same, the cost is that of two-stage detectors (the baseline).
        selection_masks: the masks of the selected queries are computed at inference too (the
            baseline does, and uses them for nothing).
        decoder_layers: number of decoder layers L.
        decoder_ffn: hidden width of the feed-forward part of a decoder layer.
        cross_attention: how decoder queries read the memory: plain or deformable.
        share_value_projection: all layers read one projection of the memory; otherwise each layer
            projects it anew (the baseline).
        box_steps: what a box head predicts: a step of the box's logits, or one relative to its
            size, which means the same wherever the box lies (layers.move_boxes).
        box_reading: channels that each decoder layer reads on a grid over the query's box
            (box_reading.py); 0 = it does not.
        box_grid: cells of that grid along each side.
        box_stride: stride of the map that is read there.
        head_layers: linear layers of the box and mask heads.
        deformable_points: sampling points per head and level (deformable attention only).
        text_dim: dimension D of the text vectors.
        text_encoder: identity of the text encoder that the weights were trained with.
        objectness_weight: share alpha of the object column in a name's score (see calibration.py).
        mask_margin: a mask ends at its box enlarged by this factor; 0 leaves it whole.
        nms_iou: mask IoU from which the weaker of two instances is a duplicate; 1 keeps them all.
        uncertainty_head: predict the quality of each query too (see calibration.py).
        gate_init: initial value of the gated residuals of the scatter step.
        refine_expansion: hidden channels of each level's refinement in the scatter step through
            ``width``; 0 = depthwise 3x3 and one pointwise convolution.
        refine_kernel: side of its depthwise convolution where ``refine_expansion`` is not 0.
        refine_layers: such refinements, one after the other.
        mask_conv: channels of a full 3x3 convolution at stride 4 that masks are made of, the last
            step of a feature pyramid as in the baseline; 0 = a depthwise-separable one of
            ``mask_width`` channels, which costs little and finds less (docs/experiments.md).
        prior_logit: initial bias of the class head (focal prior, Lin et al. 2017).
        initial_scale: initial scale of the cosine class head.
        max_scale: upper clamp of that scale.
        expected_params: parameters of this preset, stated and tested (0 = not stated).
        expected_gmac: cost in GMAC at the preset's input with 80 names, stated and tested.
    """

    name: str
    backbone: str
    backbone_args: tuple[tuple[str, Any], ...] = ()
    pyramid: bool = False
    input_size: int = 448
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    image_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    pixel_decoder: PixelDecoderForm = "bottleneck"
    bottleneck_stride: int = 32
    width: int = 128
    mask_width: int = 64
    heads: int = 8
    mixing: Mixing = "plain"
    mixing_layers: int = 2
    mixing_ffn: int = 512
    fusion: FusionPlace = "bottleneck"
    share_fusion_scores: bool = False
    fuse_subwords: bool = False
    fusion_width: int = 128
    name_map: bool = True
    name_stride: int = 16
    token_strides: tuple[int, ...] = (8, 16)
    memory_strides: tuple[int, ...] = (16,)
    queries: int = 100
    candidates: int = 0
    box_every_token: bool = False
    selection_masks: bool = False
    decoder_layers: int = 4
    decoder_ffn: int = 512
    cross_attention: Mixing = "plain"
    share_value_projection: bool = True
    box_steps: BoxSteps = "logit"
    box_reading: int = 0
    box_grid: int = 7
    box_stride: int = 8
    head_layers: int = 2
    deformable_points: int = 4
    text_dim: int = 384
    text_encoder: str = "all-MiniLM-L6-v2"
    objectness_weight: float = 0.5
    nms_iou: float = 0.8
    mask_margin: float = 1.25
    uncertainty_head: bool = False
    gate_init: float = 0.1
    refine_expansion: int = 0
    refine_kernel: int = 7
    refine_layers: int = 1
    mask_conv: int = 0
    prior_logit: float = -4.6
    initial_scale: float = 25.0
    max_scale: float = 50.0
    expected_params: int = 0
    expected_gmac: float = 0.0

    def __post_init__(self) -> None:
        """Reject what cannot be built.

        Raises:
            InputError: names the field, the value and what is allowed.
        """
        _require(
            self.bottleneck_stride in (8, 16, 32, 64), self, "bottleneck_stride", "8, 16, 32, 64"
        )
        _require(self.name_stride in (16, 32), self, "name_stride", "16, 32")
        _require(self.box_stride in (8, 16, 32), self, "box_stride", "8, 16, 32")
        # Half of a position is sines and half cosines, of the four numbers of a box.
        _require(self.width % 8 == 0 and self.width > 0, self, "width", "a positive multiple of 8")
        _require(
            self.heads > 0 and self.width % self.heads == 0, self, "heads", "a divisor of width"
        )
        _require(
            self.heads > 0 and self.fusion_width % self.heads == 0,
            self,
            "fusion_width",
            "a multiple of heads",
        )
        for field, choices in _CHOICES.items():
            _require(getattr(self, field) in choices, self, field, ", ".join(choices))
        for field, low, high in _RANGES:
            _require(low <= getattr(self, field) <= high, self, field, f"{low} to {high}")
        for field in ("objectness_weight", "nms_iou"):
            _require(0.0 <= getattr(self, field) <= 1.0, self, field, "0 to 1")
        enough = self.candidates == 0 or self.candidates >= self.queries
        _require(enough, self, "candidates", "0, or at least as many as queries")
        odd = 1 <= self.refine_kernel <= 31 and self.refine_kernel % 2 == 1
        _require(odd, self, "refine_kernel", "odd, 1 to 31")
        _require(0.0 <= self.mask_margin <= 100.0, self, "mask_margin", "0 to 100")
        for field in ("token_strides", "memory_strides"):
            strides = getattr(self, field)
            ok = len(strides) > 0 and all(s in (8, 16, 32, 64) for s in strides)
            ok = ok and len(set(strides)) == len(strides)
            _require(ok, self, field, "a non-empty choice of 8, 16, 32, 64, each once")
        for field, low in (("image_mean", -math.inf), ("image_std", 0)):
            values = getattr(self, field)
            ok = len(values) == 3 and all(is_number(value) and value > low for value in values)
            _require(ok, self, field, "three finite numbers" + (" above 0" if low == 0 else ""))
        own = all(
            isinstance(pair, tuple) and len(pair) == 2 and pair[0] not in _LOADING
            for pair in self.backbone_args
        )
        _require(own, self, "backbone_args", "(name, value) pairs that load no weights")

    def to_json(self) -> str:
        """The configuration as JSON text, one key per field."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to ``path``, whole or not at all."""
        write_text(path, self.to_json())

    def override(self, changes: Mapping[str, Any]) -> Self:
        """A copy with other values, whose parameters and cost are then not stated.

        Args:
            changes: new values by field; lists may stand for tuples.

        Raises:
            InputError: a value is of a wrong kind or not allowed.
        """
        defaults = type(self)(name="default", backbone="default")
        values = {
            key: _coerce(key, value, getattr(defaults, key), "model options")
            for key, value in changes.items()
        }
        return dataclasses.replace(self, expected_params=0, expected_gmac=0.0, **values)

    @classmethod
    def from_json(cls, text: str, where: str = "config.json") -> Self:
        """Read what :meth:`to_json` wrote.

        Args:
            text: the JSON text.
            where: name used in error messages.

        Raises:
            InputError: the text is not JSON, or a field is unknown, missing or of a wrong kind.
        """
        try:
            values = parse_json(text)
        except ValueError as error:
            raise InputError(f"{where}: not valid JSON ({error})") from None
        if not isinstance(values, dict):
            raise InputError(f"{where}: expected a JSON object, got {type(values).__name__}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise InputError(
                f"{where}: unknown field {unknown[0]!r}; this is not a mobius-seg config"
            )
        missing = sorted({"name", "backbone"} - set(values))
        if missing:
            raise InputError(f"{where}: field {missing[0]!r} is missing")
        defaults = cls(name="default", backbone="default")
        for key, value in values.items():
            values[key] = _coerce(key, value, getattr(defaults, key), where)
        return cls(**values)


def _coerce(key: str, value: Any, example: Any, where: str) -> Any:
    """Turn a JSON value into the kind of ``example`` or say that it is of the wrong kind."""
    if isinstance(example, tuple) and isinstance(value, list):
        return _as_tuple(value)
    if isinstance(example, bool) or isinstance(value, bool):
        fits = isinstance(example, bool) and isinstance(value, bool)
    elif isinstance(example, float):
        fits = is_number(value)
    else:
        fits = isinstance(value, type(example))
    if not fits:
        kind = "finite number" if isinstance(example, float) else type(example).__name__
        raise InputError(f"{where}: field {key!r} is {value!r:.80}, expected a {kind}")
    return float(value) if isinstance(example, float) else value


def _as_tuple(value: Any) -> Any:
    """JSON lists, nested ones too, as the tuples that they were."""
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


def _require(condition: bool, config: ModelConfig, field: str, allowed: str) -> None:
    """Raise an InputError naming the field, its value and what is allowed."""
    if not condition:
        value = getattr(config, field)
        raise InputError(f"ModelConfig.{field} is {value!r:.80}; allowed: {allowed}")
