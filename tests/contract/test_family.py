"""Promises of the presets that need no network to be built."""

from pathlib import Path

import pytest

from mobius_seg.config import ModelConfig
from mobius_seg.presets import PRESETS, get_preset

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name: str, tmp_path: Path) -> None:
    config = get_preset(name)
    assert config.name == name
    assert ModelConfig.from_json(config.to_json()) == config
    config.save(tmp_path / "config.json")
    assert ModelConfig.from_json((tmp_path / "config.json").read_text()) == config


@pytest.mark.parametrize("name", PRESETS)
def test_states_its_cost_and_is_in_the_readme(name: str) -> None:
    config = get_preset(name)
    assert config.expected_params > 0
    assert config.expected_gmac > 0
    assert f"`{name}`" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_all_sizes_are_there() -> None:
    sizes = [f"mobius-{size}" for size in ("test", "p", "n", "s", "m", "l", "h")]
    assert list(PRESETS) == [*sizes, "glee-lite", "glee-plus", "glee-pro"]
