"""Every script of ``benchmarks/claims`` runs from end to end, stops, goes on and stores figures."""

import importlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.support.shapes import write_shapes_pack

from mobius_seg.checkpoint import load_model
from mobius_seg.errors import InputError
from mobius_seg.train.loop import Run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scripts() -> Iterator[None]:
    """The folders that the scripts import each other from."""
    before = list(sys.path)
    sys.path[:0] = [str(ROOT / "benchmarks" / "claims"), str(ROOT / "benchmarks")]
    yield
    sys.path[:] = before


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs go, with a pack beside them."""
    folder = tmp_path_factory.mktemp("claims")
    write_shapes_pack(folder / "pack.safetensors")
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    places = ["--pack", str(folder / "pack.safetensors"), "--runs", str(folder / "runs")]
    return ["--smoke", *places, "--threads", "1", "--workers", "0", *more]


def script(name: str) -> Any:
    module: ModuleType = importlib.import_module(name)
    return module


def stored(folder: Path, name: str) -> Any:
    return json.loads((folder / "runs" / "results" / f"{name}.json").read_text())


def test_pixel_decoders_are_trained_and_costed(
    scripts: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script("pixel_decoder")
    chosen = arguments(folder, "--only", "multiscale,narrow")
    assert not module.main([*chosen, "--list"])
    assert "0 of 2 complete" in capsys.readouterr().out
    assert not module.main([*chosen, "--minutes", "0"])  # no time: nothing is begun
    assert not (folder / "runs" / "pixel_decoder").exists()
    assert module.main(chosen)
    values = stored(folder, "pixel_decoder")
    assert set(values["variants"]) == {"multiscale", "narrow"}
    assert values["runs"] == {"complete": 2, "planned": 31}
    costs = {k: v["gmac"]["640x640"]["pixel_decoder"] for k, v in values["variants"].items()}
    assert costs["narrow"] < costs["multiscale"]
    assert len(values["variants"]["narrow"]["mask_ap"]["values"]) == 1
    capsys.readouterr()
    assert module.main(chosen)  # complete: nothing is trained again
    assert "step" not in capsys.readouterr().out
    plan = folder / "runs" / "pixel_decoder" / "narrow-seed0" / "plan.json"
    plan.write_text(plan.read_text().replace('"batch_size": 2', '"batch_size": 3'))
    with pytest.raises(InputError, match="another plan"):
        module.main(chosen)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--minutes", "-1"],
        ["--minutes", "nan"],
        ["--minutes", "inf"],
        ["--seeds", "0"],
        ["--seeds", "-1"],
        ["--threads", "-1"],
        ["--workers", "-1"],
    ],
)
def test_numbers_that_would_do_nothing_or_something_else_are_refused(
    scripts: None, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        script("runs").parser(None).parse_args(arguments)
    assert caught.value.code == 2
    assert f"argument {arguments[0]}" in capsys.readouterr().err


def test_unknown_variants_are_told_in_one_line(
    scripts: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script("pixel_decoder")
    for only, said in (
        ("nonsense", "no variant 'nonsense'; there are multi"),
        ("", "no variant ''"),
    ):
        with pytest.raises(SystemExit) as caught:
            script("runs").run_script(lambda: module.main(arguments(folder, "--only", only)))  # noqa: B023
        assert caught.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {said}")
        assert err.count("\n") == 1


def test_the_time_is_up_within_the_block_and_never_after_it(scripts: None) -> None:
    deadline = script("runs").deadline
    with pytest.raises(KeyboardInterrupt), deadline(0.001):
        time.sleep(20)
    with deadline(0.001) as left:
        assert 0 < left() <= 0.06
    time.sleep(0.1)
    with deadline(0) as left:
        assert left() <= 0


def test_losses_are_compared_stage_by_stage(
    scripts: None,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = script("calibration")
    take = Run._step

    def signalled(self: Run, batch: Any) -> dict[str, float]:
        if self.state["step"] == 0:
            signal.raise_signal(signal.SIGINT)  # as when the time is up
        return take(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_step", signalled)
        assert not module.main(arguments(folder, "--only", "focal"))
    assert not module.main(arguments(folder, "--only", "focal", "--list"))
    assert "focal-seed0" in (listed := capsys.readouterr().out)
    assert "step 1 of 2" in listed
    assert module.main(arguments(folder, "--only", "focal,uncertainty"))
    values = stored(folder, "calibration")
    assert values["middle_stage"] == 1
    entry = values["variants"]["uncertainty"]["stages"][2]
    assert entry["mapped"]["laece0"]["mean"] is not None
    sides = values["verdict"]["variants"]["uncertainty"]
    assert sides["last"]["lower"] == (sides["last"]["laece0"] < sides["last"]["baseline"])
    configs = [
        load_model(folder / "runs" / "calibration" / f"{name}-seed0" / "run" / "model").config
        for name in ("focal", "uncertainty")
    ]
    assert [config.uncertainty_head for config in configs] == [False, True]
    run = folder / "runs" / "calibration" / "focal-seed0" / "run" / "run.json"
    assert json.loads(run.read_text())["loss"]["class_loss"] == "focal"


def test_the_deep_decoder_is_pruned(scripts: None, folder: Path) -> None:
    assert script("deep").main(arguments(folder, "--only", "layers-9"))
    values = stored(folder, "pruning")["mobius-test-9-layers"]
    cells = values["cells"]
    assert {"full", "adaptive@0.05", "fixed@0.05", "random@0.05", "oracle@0.05"} <= set(cells)
    assert cells["layers@2"]["policy"]["layers"] == 2
    verdict = stored(folder, "pruning")["mobius-test-9-layers"]["verdict"]
    assert {f"adaptive@{point}" for point in verdict} == {
        cell for cell in cells if cell in ("adaptive@balanced", "adaptive@fast")
    }
    assert {"static@balanced", "static@fast"} <= set(cells)
    for point, found in verdict.items():
        full, mine = cells["full"], cells[f"adaptive@{point}"]
        assert found["loss"] == pytest.approx(100 * (full["mask_ap"] - mine["mask_ap"]))
        assert set(found["rivals"]) == {"fixed", "random", "uncalibrated"}
    assert len(cells["full"]["true_positives_kept"]) == 10
    assert cells["layers@2"]["decoder_gmac"] < cells["full"]["decoder_gmac"]
    assert all(cell["mask_ap"] is not None for cell in cells.values())


def test_schedules_end_where_they_should(scripts: None, folder: Path) -> None:
    assert script("training").main(arguments(folder, "--only", "unified-half,staged-even"))
    values = stored(folder, "training")
    assert values["variants"]["unified-half"]["steps"] == 2
    assert values["variants"]["staged-even"]["steps"] == 4
    assert list(values["variants"]["staged-even"]["curves"][0]) == ["2", "4"]
    plan = json.loads(
        (folder / "runs" / "training" / "staged-even-seed0" / "plan.json").read_text()
    )
    stages = plan["train"]["recipe"]["stages"]
    assert [stage["name"] for stage in stages] == ["boxes", "joint", "scale-up"]


def test_pages_and_plots_follow_from_the_results(
    scripts: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = folder / "runs" / "results"
    page, plots = script("claims_page"), script("claims_plots")
    monkeypatch.setattr(page, "RESULTS", tmp_path / "nothing")
    assert page.claims_sections() == []
    assert plots.draw_claims(tmp_path / "nothing", tmp_path) == []
    monkeypatch.setattr(page, "RESULTS", results)
    sections = page.claims_sections()
    there = [path.stem for path in sorted(results.glob("*.json"))]
    assert len(sections) == len(there) > 0
    assert all(section.startswith("## Claim") for section in sections)
    drawn = plots.draw_claims(results, tmp_path)
    assert len(drawn) == len(there)
    assert all(path.stat().st_size > 1000 for path in drawn)


def test_a_start_takes_over_what_it_says(scripts: None, tmp_path: Path) -> None:
    starts = script("starts")
    source = load_model("mobius-test", random_weights=True, seed=5)
    names_KD = torch.nn.functional.normalize(torch.randn(20, 384), dim=-1)
    deep = load_model("mobius-test", random_weights=True, seed=6)
    deeper = type(deep)(type(deep.config)(**{**vars(deep.config), "decoder_layers": 4}))
    starts.take(deeper, source, starts.ALL, names_KD)
    mine, theirs = deeper.state_dict(), source.state_dict()
    for name, value in mine.items():
        other = name.replace("layers.2.", "layers.1.").replace("layers.3.", "layers.1.")
        other = other if name.startswith("decoder.layers") else name
        assert torch.equal(value, theirs[other]), name
    narrow = type(deep)(type(deep.config)(**{**vars(deep.config), "width": 16}))
    taken = starts.take(narrow, source, starts.BACKBONE, names_KD[:12])
    assert "name_map.fine.weight" in taken
    # Twelve names span no more than 16 directions: what is said of them stays the same.
    feature = torch.randn(2, narrow.backbone.channels[2], 4, 4)
    coarse = torch.randn(2, narrow.backbone.channels[3], 2, 2)
    products = []
    for network in (source, narrow):
        columns_KC = torch.nn.functional.normalize(
            network.text_projection(network._centred(names_KD[:12])), dim=-1
        )
        seen = network.name_map(feature, coarse)
        products.append(torch.einsum("kc,bchw->bkhw", columns_KC, seen))
    torch.testing.assert_close(products[0], products[1], rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="no such tensor of this shape"):
        starts.take(narrow, source, starts.ALL, names_KD)


def test_two_processes_share_the_work(
    scripts: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, runs = script("pixel_decoder"), script("runs")
    chosen = arguments(folder, "--only", "s16,s32")
    _, bench = runs.read_options(runs.parser(None), chosen)
    taken = next(run for run in module.planned(bench) if run.variant == "s16")
    with runs.reserved(taken, bench) as mine:
        assert mine
        assert not module.main(chosen)  # s16 is left to whoever has it
        assert "s16-seed0: another process works on it" in capsys.readouterr().out
        assert taken.result(bench) is None
        assert set(stored(folder, "pixel_decoder")["variants"]) >= {"s32"}
    assert module.main(chosen)
    assert taken.result(bench) is not None
