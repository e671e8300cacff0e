"""Parts of the benchmark: turns, rows, clocks, stages, what cannot be measured."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mobius_seg import machine
from mobius_seg.bench import stages
from mobius_seg.bench.contenders import PEER, Contender, Wish, find_peer, own_config, read_models
from mobius_seg.bench.exporting import fixed_names, folder_name, with_exports
from mobius_seg.bench.interleave import Measured, measure, rows, turns
from mobius_seg.bench.runners import PeerRunner, load_runner
from mobius_seg.cost.report import measure as measure_cost
from mobius_seg.errors import InputError


def _contender(**changes: Any) -> Contender:
    values = {"model": "mobius-test", "runtime": "torch", "size": (64, 96), "names": 5}
    return Contender(**values | {"threads": 1} | changes)


def _measured(times: list[list[float]], **changes: Any) -> Measured:
    blocks = tuple(tuple(block) for block in times)
    return Measured(contender=_contender(**changes), blocks_ms=blocks, peak_mb=100.0)


def test_everyone_goes_first_once() -> None:
    orders = [turns(3, block) for block in range(3)]
    assert orders == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]


def test_rows_compare_medians_over_blocks() -> None:
    ours = _measured([[1.0, 2.0, 9.0], [3.0, 3.0, 3.0], [4.0, 4.0, 4.0]])
    peer = _measured([[4.0] * 3, [6.0] * 3, [8.0] * 3], model="rival", runtime=PEER)
    row, own = rows([ours, peer])
    assert row["latency_ms_median"] == 3.0  # of 2, 3 and 4
    assert row["ratio_to"] == {"rival": 0.5}
    assert row["ratio_span"] == {"rival": [0.5, 0.5]}
    assert row["latency_ms_p95"] == pytest.approx(np.percentile([1, 2, 9, 3, 3, 3, 4, 4, 4], 95))
    assert row["throughput_ips"] == pytest.approx(1000 * 9 / 33, abs=1e-3)
    assert own["ratio_to"] == {"rival": 1.0}
    assert {"model", "runtime", "operating_point", "precision", "size", "peak_mb"} <= set(row)


def test_a_peak_is_the_process_s_own() -> None:
    """The kernel carries the mark of getrusage over from the process that starts another."""
    ballast = np.ones(60_000_000)  # 480 MB
    program = "from mobius_seg.machine import peak_mb; print(peak_mb())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ballast.nbytes / 1e6 > 400
    if Path("/proc/self/status").exists():
        assert float(done.stdout) < 200
        assert machine.peak_mb() > 480


def test_the_clock_charges_the_innermost_part(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 7.0, 10.0, 20.0])
    monkeypatch.setattr(stages.time, "perf_counter", lambda: next(now))
    clock = stages.Clock()
    with clock.part("outer"):
        with clock.part("inner"):
            pass
        with clock.part("inner"):
            pass
    assert clock.seconds == {"outer": 1.0 + 4.0 + 10.0, "inner": 2.0 + 3.0}


def test_stages_hold_the_whole_cost() -> None:
    contender = _contender(names=7)
    runner: Any = load_runner(_stage(contender))
    whole = measure_cost("mobius-test", contender.size, 7, 8)
    assert sum(runner.facts["gmac"].values()) == pytest.approx(whole.gmac)
    runner.run()
    runner.start_block()
    runner.run()
    found = runner.end_block()
    assert list(found["stages_ms"]) == list(stages.STAGES)
    assert all(time > 0 for time in found["stages_ms"].values())
    summary = stages.summary(runner.facts, [found, found])
    stage = summary["stages"][stages.BACKBONE]
    rate = summary["matrix_gmac_per_s"]
    assert stage["at_peak_ms"] == pytest.approx(1000 * stage["gmac"] / rate, rel=1e-2)
    assert summary["stages"][stages.PREPROCESS]["share"] is None


def _stage(contender: Contender) -> Contender:
    return Contender.from_json(json.dumps(json.loads(contender.to_json()) | {"runtime": "stages"}))


def test_operating_points_prune_what_is_timed() -> None:
    full, fast = (
        sum(load_runner(_stage(_contender(operating_point=point))).facts["gmac"].values())
        for point in ("full", "fast")
    )
    assert fast < full


@pytest.mark.parametrize("runtime", ["torch", "predict"])
def test_eager_runners_run(runtime: str) -> None:
    runner = load_runner(_contender(runtime=runtime))
    runner.run()
    runner.run()
    assert runner.facts["weights"] == "random"


def test_torch_gets_the_picture_as_predict_lays_it_out() -> None:
    """Channels last: with channels first the convolutions of a CPU are slower."""
    runner: Any = load_runner(_contender())
    assert runner.images_B3HW.is_contiguous(memory_format=torch.channels_last)


def test_exported_folders_are_opened_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    class Standin:
        def run(self, image: NDArray[np.float32], text: NDArray[np.float32] | None) -> None:
            calls.append((image.shape, image.dtype, None if text is None else text.shape))

    def open_exported(folder: Path, threads: int | None = None) -> Standin:
        calls.append((folder, threads))
        return Standin()

    monkeypatch.setitem(
        sys.modules, "mobius_seg.export", SimpleNamespace(open_exported=open_exported)
    )
    for vocabulary in ("fixed", "dynamic"):
        values = {"runtime": "onnx", "vocabulary": vocabulary, "path": "somewhere"}
        load_runner(_contender(**values)).run()
    picture = ((1, 3, 64, 96), np.dtype(np.float32))
    opened = (Path("somewhere"), 1)
    assert calls == [opened, (*picture, None), opened, (*picture, (5, 384))]


def test_a_wish_is_every_combination() -> None:
    wish = Wish(
        models=(("mobius-test", (64, 64)), ("mobius-n", (320, 320))),
        runtimes=("torch", "onnx", "openvino"),
        operating_points=("full", "fast"),
        precisions=("fp32", "int8"),
        vocabularies=("fixed",),
        names=3,
        threads=1,
    )
    found = list(wish.contenders())
    assert len(found) == len({one.label for one in found}) == 2 * 2 * (1 + 2 + 2)
    assert len({folder_name(one) for one in found if one.runtime != "torch"}) == 2 * 2 * 4
    assert {one.precision for one in found if one.runtime == "torch"} == {"fp32"}
    assert all(Contender.from_json(one.to_json()) == one for one in found)


def test_models_with_sizes() -> None:
    side = own_config("mobius-n").input_size
    found = read_models("mobius-n,mobius-p@448,mobius-test@64x96", None)
    assert found == (
        ("mobius-n", (side, side)),
        ("mobius-p", (448, 448)),
        ("mobius-test", (64, 96)),
    )
    assert read_models("mobius-n", (64, 64)) == (("mobius-n", (64, 64)),)


@pytest.mark.parametrize("text", ["mobius-x", "mobius-n@50", "mobius-n@", "mobius-n@axb", "a,,b"])
def test_bad_models_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        read_models(text, None)


def test_peers_are_files(tmp_path: Path) -> None:
    path = tmp_path / "rival_320x320.onnx"
    path.touch()
    assert find_peer("rival@320", tmp_path, (640, 640), 2).path == str(path)
    assert find_peer("rival", tmp_path, (320, 320), 2).model == "rival"
    assert find_peer(str(path), tmp_path, (640, 640), 2).model == "rival_320x320"
    with pytest.raises(InputError, match=r"rival_640x640\.onnx is not there"):
        find_peer("rival", tmp_path, (640, 640), 2)
    with pytest.raises(InputError, match="no such file"):
        find_peer("other.onnx", tmp_path, (640, 640), 2)


def test_what_cannot_be_exported_is_left_out(tmp_path: Path) -> None:
    lines: list[str] = []
    bad = _contender(runtime="onnx", vocabulary="fixed", operating_point="slow")
    kept = list(with_exports([_contender(), bad], tmp_path, lines.append))
    assert kept == [_contender()]
    assert len(lines) == 1
    assert "cannot be exported" in lines[0]
    assert "Traceback" not in lines[0]


def test_int8_is_calibrated_with_the_pictures_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    both = [_contender(runtime="onnx", precision=precision) for precision in ("fp32", "int8")]
    assert len(list(with_exports(both, tmp_path, print, tmp_path / "pictures"))) == 2
    asked = ["--calibration-images", str(tmp_path / "pictures")]
    given = [any(command[i : i + 2] == asked for i in range(len(command))) for command in ran]
    assert given == [False, True]


def test_an_export_that_is_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobius_seg.bench.exporting.export", lambda *_: pytest.fail("exported"))
    one = _contender(runtime="onnx", vocabulary="dynamic")
    (tmp_path / folder_name(one)).mkdir()
    (tmp_path / folder_name(one) / "model.json").write_text("{}")
    (kept,) = with_exports([one], tmp_path, print)
    assert Path(kept.path) == tmp_path / folder_name(one)


def test_fixed_names_are_known_ones() -> None:
    assert fixed_names(2) == ["person", "bicycle"]
    assert len(set(fixed_names(300))) == 300
    with pytest.raises(InputError, match="--vocabulary dynamic"):
        fixed_names(100_000)


def test_a_contender_that_cannot_be_loaded_is_left_out() -> None:
    lines: list[str] = []
    peer = _contender(runtime=PEER, path="nowhere.onnx", operating_point="")
    assert measure([peer], 1, 1, lines.append) == []
    assert len(lines) == 1
    assert "Traceback" not in lines[0]


def test_peers_run_in_onnx_runtime_without_spinning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "rival.onnx"
    onnx.save(_doubling(onnx), str(path))
    entries: dict[str, str] = {}
    options = onnxruntime.SessionOptions

    class Spy(options):  # type: ignore[misc, valid-type]
        def add_session_config_entry(self, key: str, value: str) -> None:
            entries[key] = value
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Spy)
    runner = PeerRunner(_contender(runtime=PEER, path=str(path)))
    runner.run()
    assert runner.facts["inputs"] == {"image": [1, 3, 4, 4]}
    assert entries["session.intra_op.allow_spinning"] == "0"


def _doubling(onnx: Any) -> Any:
    """A graph of one addition, batch size open."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    image, out = (
        helper.make_tensor_value_info(name, kind, ["batch", 3, 4, 4]) for name in ("image", "out")
    )
    node = helper.make_node("Add", ["image", "image"], ["out"])
    graph = helper.make_graph([node], "rival", [image], [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
