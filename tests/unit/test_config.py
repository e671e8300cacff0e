"""Configurations refuse what cannot be built and survive JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.presets import PRESETS, get_preset


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"name": "own", "backbone": "test_resnet", **changes})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bottleneck_stride", 12),
        ("name_stride", 8),
        ("name_stride", 64),
        ("width", 0),
        ("width", 30),
        ("heads", 0),
        ("heads", 7),
        ("fusion_width", 100),
        ("mixing", "conv"),
        ("cross_attention", "none"),
        ("pixel_decoder", "pyramid"),
        ("fusion", "everywhere"),
        ("head_layers", 0),
        ("mixing_layers", -1),
        ("queries", 0),
        ("queries", 10**9),
        ("decoder_layers", 10**6),
        ("mixing_layers", 65),
        ("mask_width", 0),
        ("decoder_layers", 0),
        ("input_size", 16),
        ("objectness_weight", 1.5),
        ("token_strides", ()),
        ("token_strides", (12,)),
        ("token_strides", (4, 8)),  # stride 4 has mask features, no tokens
        ("memory_strides", ()),
        ("memory_strides", (128,)),
        ("token_strides", (8, 8)),
        ("width", 36),  # positions of four numbers, half sines and half cosines: 32 of 36
        ("image_mean", (0.5, 0.5)),
        ("image_mean", (0.5, 0.5, "0.5")),
        ("image_mean", (0.5, 0.5, float("nan"))),
        ("image_std", (0.0, 0.5, 0.5)),
        ("image_std", (-0.5, 0.5, 0.5)),
        ("image_std", (0.5,) * 4),
        ("initial_scale", 0.0),
        ("max_scale", -1.0),
        ("max_scale", float("nan")),
        ("gate_init", float("inf")),
        ("prior_logit", 1e308),
        ("backbone_args", (1,)),
        ("backbone_args", (("depth",),)),
        ("backbone_args", (("checkpoint_path", "weights.pth"),)),
        ("backbone_args", (("pretrained", True),)),
    ],
)
def test_refuses_and_says_what_is_allowed(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"ModelConfig\.{field} is .*allowed"):
        config(**{field: value})


def test_is_frozen_and_takes_keywords_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().width = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        ModelConfig("own", "test_resnet")  # type: ignore[misc]


def test_json_gives_back_the_same_types(tmp_path: Path) -> None:
    args = (("depths", (1, 2)), ("nested", ((1, 2), (3,))), ("flag", False), ("rate", 0.5))
    wanted = config(backbone_args=args, token_strides=(8,), objectness_weight=1.0)
    wanted.save(tmp_path / "config.json")
    text = (tmp_path / "config.json").read_text()
    assert ModelConfig.from_json(text) == wanted
    assert hash(ModelConfig.from_json(text)) == hash(wanted)
    assert set(json.loads(text)) == {field.name for field in dataclasses.fields(ModelConfig)}
    # A whole number where a fraction is meant is fine, and becomes one.
    whole = ModelConfig.from_json('{"name": "a", "backbone": "b", "objectness_weight": 1}')
    assert isinstance(whole.objectness_weight, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object, got list"),
        ("{}", "'backbone' is missing"),
        ('{"backbone": "x"}', "'name' is missing"),
        ('{"name": "a", "backbone": "b", "num_classes": 80}', "unknown field 'num_classes'"),
        ('{"name": "a", "backbone": 5}', "'backbone' is 5, expected a str"),
        ('{"name": "a", "backbone": "b", "width": "wide"}', "'width' is 'wide'"),
        ('{"name": "a", "backbone": "b", "width": 64.5}', "'width' is 64.5"),
        ('{"name": "a", "backbone": "b", "width": true}', "'width' is True"),
        ('{"name": "a", "backbone": "b", "width": null}', "'width' is None"),
        ('{"name": "a", "backbone": "b", "pyramid": 1}', "'pyramid' is 1"),
        ('{"name": "a", "backbone": "b", "token_strides": 8}', "'token_strides' is 8"),
        ('{"name": "a", "backbone": "b", "width": 30}', "ModelConfig.width is 30"),
        ("[" * 100_000, "not valid JSON"),
        ('{"name": "a", "name": "b", "backbone": "b"}', "'name' stands there twice"),
        ('{"name": "a", "backbone": "b", "gate_init": NaN}', "'gate_init' is nan, expected a fin"),
        (f'{{"name": "a", "backbone": "b", "gate_init": {"9" * 400}}}', "of 400 digits"),
    ],
)
def test_json_that_is_not_a_configuration(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        ModelConfig.from_json(text, "folder/config.json")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    if "ModelConfig." not in message:
        assert "folder/config.json" in str(caught.value)


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(InputError) as caught:
        get_preset("mobius-xl")
    assert all(name in str(caught.value) for name in PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_carry_their_name(name: str) -> None:
    assert get_preset(name).name == name
    assert get_preset(name) == get_preset(name)
