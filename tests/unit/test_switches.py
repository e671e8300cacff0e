"""Switches of losses and model: read from texts, checked, applied to presets and to weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mobius_seg.checkpoint import save_model
from mobius_seg.errors import InputError
from mobius_seg.loss_config import LossConfig, PointConfig
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.train.settings import TrainConfig
from mobius_seg.train.start import start_network
from mobius_seg.train.switches import override, parse_loss, parse_overrides

NAMES = torch.eye(4, 384)


def run(**changes: Any) -> TrainConfig:
    values = {"preset": "mobius-test", "out": Path("unused"), "steps": 1, "pretrained": False}
    return TrainConfig(**{**values, **changes})


def start(config: TrainConfig) -> Mobius:
    return start_network(config, config.model(), NAMES)[0]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    save_model(Mobius(get_preset("mobius-test")), tmp_path / "stored", float16=False)
    return tmp_path / "stored"


def test_texts_become_a_loss() -> None:
    texts = ["class_loss=focal", "synonyms=false", "pull=0", "dense_tokens=3", "points.count=64"]
    assert parse_loss(texts) == LossConfig(
        class_loss="focal", synonyms=False, pull=0.0, dense_tokens=3, points=PointConfig(count=64)
    )
    assert parse_loss(None) == LossConfig()


def test_texts_become_overrides() -> None:
    texts = ["bottleneck_stride=16", "token_strides=8, 16", "uncertainty_head=true", "gate_init=.5"]
    values = parse_overrides(texts)
    assert values == {
        "bottleneck_stride": 16,
        "token_strides": (8, 16),
        "uncertainty_head": True,
        "gate_init": 0.5,
    }
    config = run(overrides=values, sizes=((0.0, 96),)).model()
    assert (config.name, config.input_size) == ("mobius-test", 96)
    assert config.bottleneck_stride == 16
    assert config.expected_params == 0  # no longer those of the preset


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class_loss", "NAME=VALUE"),
        ("class_los=mal", "unknown field 'class_los'"),
        ("class_loss=mall", "allowed: mal, varifocal, focal"),
        ("synonyms=2", "allowed: true, false"),
        ("pull=much", "a finite number"),
        ("pull=nan", "a finite number"),
        ("pull=-1", r"LossConfig.pull is -1.0; allowed: 0 to"),
        ("points.count=0", r"PointConfig.count is 0; allowed: 1 to"),
        ("dense_tokens=1.5", "a whole number"),
        ("dense_tokens=" + "9" * 400, "a whole number"),
    ],
)
def test_bad_losses_are_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_loss([text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width", "NAME=VALUE"),
        ("breadth=3", "unknown field 'breadth'"),
        ("name=x", "decided by --preset"),
        ("input_size=64", "decided by --size"),
        ("width=wide", "a whole number"),
        ("backbone_args=1", "from Python only"),
        ("width=" + "9" * 400, "a whole number"),
    ],
)
def test_bad_options_are_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_overrides([text])


def test_an_option_that_is_given_twice_says_two_things() -> None:
    with pytest.raises(InputError, match="--loss: field 'mask' is given twice"):
        parse_loss(["mask=1", "box=2", "mask=1"])
    with pytest.raises(InputError, match=r"field 'points\.count' is given twice"):
        parse_loss(["points.count=12", "points.count=13"])
    with pytest.raises(InputError, match="--model-option: field 'width' is given twice"):
        parse_overrides(["width=32", "width=64"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"breadth": 3}, "unknown model option 'breadth'"),
        ({"input_size": 64}, "decided by --size"),
        ({"width": "wide"}, "expected a int"),
        ({"width": 33}, "ModelConfig.width is 33"),
        ({"gate_init": float("nan")}, "finite"),
        ({"gate_init": 10**400}, "expected a finite number"),
        ({"fusion": "everywhere"}, "allowed: bottleneck, levels"),
    ],
)
def test_bad_overrides_are_named_at_once(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(overrides=overrides)


def test_nothing_overridden_is_the_preset_itself() -> None:
    preset = get_preset("mobius-test")
    assert override(preset, {}) is preset
    assert run(sizes=((0.0, 64),)).model() == preset


def test_an_added_part_starts_anew_and_the_rest_is_kept(stored: Path) -> None:
    plain = start(run(weights=stored))
    grown = start(run(weights=stored, overrides={"uncertainty_head": True}))
    assert grown.config.uncertainty_head
    kept, now = plain.state_dict(), grown.state_dict()
    assert kept.keys() < now.keys()
    assert all("uncertainty" in name or "quality" in name for name in now.keys() - kept.keys())
    assert all(torch.equal(value, now[name]) for name, value in kept.items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"decoder_layers": 1}, "have no place for decoder.layers.1"),
        ({"decoder_ffn": 32}, "reshape decoder.layers.0"),
    ],
)
def test_options_that_drop_or_reshape_weights_are_refused(
    stored: Path, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        start(run(weights=stored, overrides=overrides))


def test_overridden_weights_are_gone_on_with_as_they_are(stored: Path, tmp_path: Path) -> None:
    grown = start(run(weights=stored, overrides={"uncertainty_head": True}))
    save_model(grown, tmp_path / "grown", float16=False)
    config = run(weights=tmp_path / "grown")
    assert config.model().uncertainty_head
    again = start(config).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in grown.state_dict().items())


def test_options_that_describe_no_network_are_named() -> None:
    config = run(overrides={"backbone": "no_such_backbone"})
    with pytest.raises(InputError, match="model options"):
        start(config)
