"""The family: each preset states only the numbers that differ from the defaults."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError

_LITE_MEAN = (127 / 255, 127 / 255, 127 / 255)
_LITE_STD = (128 / 255, 128 / 255, 128 / 255)
_HALF = (0.5, 0.5, 0.5)


def mobius_test() -> ModelConfig:
    """A model for unit tests: seconds to train, kilobytes to store."""
    return ModelConfig(
        name="mobius-test",
        backbone="test_efficientnet",
        input_size=64,
        width=32,
        mask_width=16,
        heads=4,
        mixing_layers=1,
        mixing_ffn=64,
        fusion_width=32,
        queries=12,
        decoder_layers=2,
        decoder_ffn=64,
        expected_params=169_675,
        expected_gmac=0.0121,
        image_mean=_HALF,
        image_std=_HALF,
    )


def mobius_p() -> ModelConfig:
    """Phone in real time, browser.

    Two layers that read the 400 tokens of stride 32 keep the width of 128: after equal training
    they found more than three layers of width 96 on stride 16, which take as long
    (docs/experiments.md).
    """
    return ModelConfig(
        name="mobius-p",
        backbone="mobilenetv4_conv_small",
        input_size=512,
        mask_width=32,
        memory_strides=(32,),
        queries=64,
        candidates=256,
        decoder_layers=2,
        expected_params=2_954_975,
        expected_gmac=1.64,
    )


def mobius_n() -> ModelConfig:
    """Phone, small CPU."""
    return ModelConfig(
        name="mobius-n",
        backbone="tf_efficientnet_lite0",
        input_size=416,
        candidates=400,
        expected_params=4_973_663,
        expected_gmac=2.06,
        image_mean=_LITE_MEAN,
        image_std=_LITE_STD,
    )


def mobius_s() -> ModelConfig:
    """Phone, CPU, more accurate.

    As wide as mobius-n, whose trained weights it grows from (train/grow.py): what the larger one
    adds is its backbone, its feed-forward parts, a mixing layer and queries. Its first weights find
    most at 416 pixels, as those of mobius-n do (docs/experiments.md).
    """
    return ModelConfig(
        name="mobius-s",
        backbone="tf_efficientnet_lite2",
        input_size=416,
        mixing_layers=3,
        mixing_ffn=768,
        queries=150,
        candidates=600,
        decoder_ffn=768,
        expected_params=7_042_847,
        expected_gmac=3.02,
        image_mean=_LITE_MEAN,
        image_std=_LITE_STD,
    )


def _accelerator(name: str, backbone: str, **changes: object) -> ModelConfig:
    """What the three accelerator sizes share: width 256, plain mixing at stride 32.

    With a full convolution at stride 4 and box steps relative to the box, the bottleneck came
    nearest to the baseline after equal training; stride 16 with deformable mixing cost more and
    found less (docs/experiments.md).
    """
    values: dict[str, object] = {
        "input_size": 800,
        "bottleneck_stride": 32,
        "width": 256,
        "mask_width": 256,
        "mixing_layers": 6,
        "mixing_ffn": 1024,
        "mask_conv": 256,
        "box_steps": "relative",
        "fusion_width": 512,
        "name_stride": 32,
        "token_strides": (8, 16, 32),
        "memory_strides": (16, 32, 64),
        "queries": 300,
        "candidates": 1200,
        "decoder_layers": 9,
        "decoder_ffn": 1024,
        "cross_attention": "deformable",
    }
    values.update(changes)
    return ModelConfig(name=name, backbone=backbone, **values)  # type: ignore[arg-type]


def mobius_m() -> ModelConfig:
    """Edge accelerator."""
    return _accelerator(
        "mobius-m",
        "resnet50",
        expected_params=46_580_864,
        expected_gmac=102.3,
    )


def mobius_l() -> ModelConfig:
    """Accelerator."""
    return _accelerator(
        "mobius-l",
        "swin_large_patch4_window12_384",
        backbone_args=(("strict_img_size", False), ("drop_path_rate", 0.0)),
        expected_params=216_629_876,
        expected_gmac=566.4,
    )


def mobius_h() -> ModelConfig:
    """Accelerator, highest accuracy."""
    return _accelerator(
        "mobius-h",
        "eva02_large_patch14_448",
        backbone_args=(("patch_size", 16), ("dynamic_img_size", True)),
        pyramid=True,
        input_size=1536,
        image_mean=(0.48145466, 0.4578275, 0.40821073),
        image_std=(0.26862954, 0.26130258, 0.27577711),
        expected_params=322_346_752,
        expected_gmac=7156.0,
    )


def _baseline(larger: ModelConfig, name: str, **stated: Any) -> ModelConfig:
    """The GLEE-style model of the same backbone and input as one of ours (docs/model.md)."""
    return replace(
        larger,
        name=name,
        pixel_decoder="multiscale",
        mixing="deformable",
        mask_conv=0,
        box_steps="logit",
        fusion="levels",
        share_fusion_scores=True,
        fuse_subwords=True,
        fusion_width=2048,
        mixing_ffn=2048,
        token_strides=(8, 16, 32, 64),
        memory_strides=(8, 16, 32, 64),
        candidates=0,
        box_every_token=True,
        selection_masks=True,
        decoder_ffn=2048,
        share_value_projection=False,
        head_layers=3,
        name_map=False,
        **stated,
    )


def glee_lite() -> ModelConfig:
    """Baseline of mobius-m."""
    return _baseline(mobius_m(), "glee-lite", expected_params=55_925_720, expected_gmac=254.0)


def glee_plus() -> ModelConfig:
    """Baseline of mobius-l."""
    return _baseline(mobius_l(), "glee-plus", expected_params=226_187_724, expected_gmac=719.0)


def glee_pro() -> ModelConfig:
    """Baseline of mobius-h."""
    return _baseline(mobius_h(), "glee-pro", expected_params=332_346_968, expected_gmac=7700.0)


PRESETS: dict[str, Callable[[], ModelConfig]] = {
    "mobius-test": mobius_test,
    "mobius-p": mobius_p,
    "mobius-n": mobius_n,
    "mobius-s": mobius_s,
    "mobius-m": mobius_m,
    "mobius-l": mobius_l,
    "mobius-h": mobius_h,
    "glee-lite": glee_lite,
    "glee-plus": glee_plus,
    "glee-pro": glee_pro,
}


def get_preset(name: str) -> ModelConfig:
    """The configuration of a preset.

    Raises:
        InputError: no preset has this name; the message lists those that exist.
    """
    if name not in PRESETS:
        raise InputError(f"unknown model {name!r}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]()
