"""Models on disk: what is written comes back, what is wrong is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.models import HashEncoder, lively_network
from torch import Tensor

import mobius_seg
from mobius_seg.checkpoint import (
    SHIPPED,
    find_folder,
    is_shipped,
    list_models,
    load_model,
    save_model,
)
from mobius_seg.errors import InputError
from mobius_seg.model import Mobius
from mobius_seg.presets import PRESETS


@pytest.fixture
def network() -> Mobius:
    return lively_network()


@pytest.fixture
def folder(tmp_path: Path, network: Mobius) -> Path:
    save_model(network, tmp_path / "model")
    return tmp_path / "model"


def _edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_round_trip_is_exact_in_float32(tmp_path: Path, network: Mobius) -> None:
    save_model(network, tmp_path / "a", training={"steps": 3}, float16=False)
    again = load_model(tmp_path / "a")
    assert again.config == network.config
    assert not again.training
    for key, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    assert json.loads((tmp_path / "a" / "training.json").read_text()) == {"steps": 3}
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "config.json", "model.safetensors", "training.json"
    ]  # fmt: skip


def test_half_precision_is_close_and_half_as_large(tmp_path: Path, network: Mobius) -> None:
    network.backbone.requires_grad_(False)
    norm = next(m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert norm.running_var is not None
    norm.running_var.fill_(1e9)  # beyond float16
    save_model(network, tmp_path / "half")
    save_model(network, tmp_path / "full", float16=False)
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("half", "full")]
    assert sizes[0] < 0.7 * sizes[1]
    again = load_model(tmp_path / "half")
    for key, value in network.state_dict().items():
        found = again.state_dict()[key]
        assert found.dtype == value.dtype
        assert torch.allclose(found, value, rtol=1e-3, atol=1e-6), key


def test_matrices_beyond_half_precision_stay_whole(tmp_path: Path, network: Mobius) -> None:
    with torch.no_grad():
        network.text_projection.weight.fill_(1e6)
    save_model(network, tmp_path)
    assert (load_model(tmp_path).text_projection.weight == 1e6).all()


def test_a_training_run_is_a_model(tmp_path: Path, network: Mobius) -> None:
    with pytest.raises(InputError, match=r"holds no config\.json$"):
        load_model(tmp_path)
    save_model(network, tmp_path / "snapshots" / "step-00000009")
    with pytest.raises(InputError, match=r"newest snapshot of this run is .*step-00000009"):
        load_model(tmp_path)
    save_model(network, tmp_path / "model")
    assert load_model(tmp_path).config == network.config


def test_random_weights_follow_the_seed() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (
        load_model("mobius-test", random_weights=True, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
    assert torch.equal(state, torch.random.get_rng_state())


def test_unknown_name_lists_what_there_is() -> None:
    for call in (load_model, lambda name: load_model(name, random_weights=True)):
        with pytest.raises(InputError, match=r"unknown model 'mobius-x'.*mobius-n, mobius-s"):
            call("mobius-x")


def test_preset_without_weights_says_how_to_get_them() -> None:
    assert not is_shipped("mobius-h")
    with pytest.raises(InputError, match=r"no weights of 'mobius-h'.*mobius-seg train"):
        mobius_seg.load("mobius-h")


def test_list_models() -> None:
    models = mobius_seg.list_models()
    assert [model.name for model in models] == list(PRESETS)
    assert models == list_models()
    assert all(model.config.expected_params > 0 for model in models)


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(InputError, match="is a file; give the folder"):
        find_folder(folder / "model.safetensors")


def test_misfits_are_named(folder: Path) -> None:
    _edit(folder, lambda t: t.pop("object_token"))
    with pytest.raises(InputError, match=r"missing: object_token$"):
        load_model(folder)
    _edit(folder, lambda t: t.update(extra=torch.zeros(1), object_token=torch.zeros(7)))
    with pytest.raises(InputError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "not expected: extra" in message
    assert "of another shape: object_token [7] instead of [32]" in message
    assert "\n" not in message


def test_foreign_weights_are_named_in_one_line(folder: Path) -> None:
    save_file({f"layer{i}": torch.zeros(2) for i in range(9)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"missing: .* and \d+ more; not expected: .* and 6 more"):
        load_model(folder)


def test_values_that_are_not_finite(folder: Path) -> None:
    _edit(folder, lambda t: t["object_token"].fill_(float("nan")))
    with pytest.raises(InputError, match="object_token holds values that are not finite"):
        load_model(folder)


def test_whole_numbers_are_no_weights(folder: Path) -> None:
    _edit(folder, lambda t: t.update(object_token=torch.zeros(32, dtype=torch.int64)))
    with pytest.raises(InputError, match="of another type: object_token int64 instead of float32"):
        load_model(folder)


@pytest.mark.parametrize("damage", [b"", b"\x80\x04K\x01.", b"\xff" * 500, b"{}"])
def test_broken_weight_files(folder: Path, damage: bytes) -> None:
    (folder / "model.safetensors").write_bytes(damage)
    with pytest.raises(InputError, match=r"model\.safetensors: not a readable safetensors file"):
        load_model(folder)


def test_cut_weight_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_model(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"architectures": ["Bert"]}', "unknown field 'architectures'"),
        ('{"name": "x", "backbone": "no_such_net"}', "not a timm model"),
        ('{"name": "x", "backbone": "test_efficientnet", "width": "wide"}', "field 'width'"),
        ('{"name": "x", "backbone": "test_efficientnet", "width": 30}', "width"),
        ("\xff", "JSON"),
    ],
)
def test_broken_configs(folder: Path, text: str, words: str) -> None:
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError) as caught:
        load_model(folder)
    assert words in str(caught.value) or "cannot be read" in str(caught.value)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_saving_where_nothing_can_be_written(tmp_path: Path, network: Mobius) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        save_model(network, tmp_path / "file" / "model")


@pytest.mark.parametrize("name", [p.name for p in SHIPPED.iterdir() if p.is_dir()])
def test_shipped_models_know_their_confidence_and_their_points(name: str) -> None:
    """Files that belong to other weights would be refused here."""
    model = mobius_seg.load(name, "cpu", text_encoder=HashEncoder())
    assert model.calibration is not None
    assert model.calibration.fitted_on["images"] >= 300
    points = model.planner.points
    assert points.origin == ""  # tuned for these weights
    costs = [point.measured["decoder_gmac"] or 0.0 for point in points.points.values()]
    assert list(points.points) == ["full", "balanced", "fast"]
    assert costs == sorted(costs, reverse=True)
    assert 0 < model.threshold_for(precision=0.75) < 1
