"""Switches of the losses and of the model, as a run states them: ``NAME=VALUE`` and mappings."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.json_values import is_number
from mobius_seg.loss_config import LossConfig

# What a run decides by other settings, or what states the result.
_DECIDED = {
    "name": "--preset",
    "input_size": "--size",
    "text_dim": "the text encoder",
    "text_encoder": "the text encoder",
    "expected_params": "the other fields",
    "expected_gmac": "the other fields",
}


def override(base: ModelConfig, overrides: Mapping[str, Any]) -> ModelConfig:
    """A configuration with some fields changed.

    Args:
        base: a preset, or the configuration of the weights that a run starts from.
        overrides: new values by field; lists may stand for tuples, as in JSON.

    Returns:
        The changed configuration under the same name; its parameters and GMAC are then not stated.
        Without overrides ``base`` itself.

    Raises:
        InputError: a field is unknown or not to be overridden, or its value is not allowed.
    """
    if not overrides:
        return base
    allowed = sorted(_model_fields())
    for key, value in overrides.items():
        if key in _DECIDED:
            raise InputError(
                f"model option {key!r} cannot be set: it is decided by {_DECIDED[key]}"
            )
        if key not in allowed:
            raise InputError(f"unknown model option {key!r}; allowed: {', '.join(allowed)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"model option {key!r} is {value!r}; allowed: finite numbers")
    return base.override(overrides)


def parse_overrides(texts: Sequence[str] | None) -> dict[str, Any]:
    """Read ``--model-option NAME=VALUE`` options.

    Raises:
        InputError: an option has another form, or its field or value is not allowed.
    """
    values: dict[str, Any] = {}
    for text in texts or ():
        name, value = _split("--model-option", text, "bottleneck_stride=16")
        fields = _model_fields()
        if name in _DECIDED:
            override(ModelConfig(name="", backbone=""), {name: value})
        _known("--model-option", name, fields, values)
        values[name] = _read(f"--model-option {name}", value, fields[name])
    return values


def parse_loss(texts: Sequence[str] | None) -> LossConfig:
    """Read ``--loss NAME=VALUE`` options; ``points.NAME`` reaches the numbers of points.

    Raises:
        InputError: an option has another form, or its field or value is not allowed.
    """
    values: dict[str, Any] = {}
    points: dict[str, Any] = {}
    config = LossConfig()
    fields = flatten(dataclasses.asdict(config))
    for text in texts or ():
        name, value = _split("--loss", text, "class_loss=focal")
        place = points if name.startswith("points.") else values
        _known("--loss", name, fields, place)
        place[name.removeprefix("points.")] = _read(f"--loss {name}", value, fields[name])
    if points:
        values["points"] = dataclasses.replace(config.points, **points)
    return dataclasses.replace(config, **values)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _model_fields() -> dict[str, Any]:
    """Fields that may be overridden, with a value of their kind."""
    values = vars(ModelConfig(name="", backbone=""))
    return {name: value for name, value in values.items() if name not in _DECIDED}


def _split(flag: str, text: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise InputError(f"{flag} is {text!r}; allowed: NAME=VALUE, such as {example}")
    return name.strip(), value.strip()


def _known(flag: str, name: str, fields: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if name not in fields:
        raise InputError(f"{flag}: unknown field {name!r}; allowed: {', '.join(sorted(fields))}")
    if name.removeprefix("points.") in given:
        raise InputError(f"{flag}: field {name!r} is given twice; allowed: once")


def _read(where: str, text: str, example: Any) -> Any:
    """A text as a value of the kind of ``example``."""
    if isinstance(example, bool):
        if text.lower() not in ("true", "false"):
            raise InputError(f"{where} is {text!r}; allowed: true, false")
        return text.lower() == "true"
    if isinstance(example, tuple):
        if not example:
            raise InputError(f"{where} can be set from Python only")
        return tuple(_read(where, part.strip(), example[0]) for part in text.split(","))
    if isinstance(example, str):
        return text
    kind = "a whole number" if isinstance(example, int) else "a finite number"
    try:
        value = type(example)(text)
    except ValueError:
        value = math.nan
    if not is_number(value):
        raise InputError(f"{where} is {text!r:.60}; allowed: {kind}")
    return value
