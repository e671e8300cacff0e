"""LiteRT without its packages: the program to convert, what XNNPACK took, and the session."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.models import lively_network

from mobius_seg.errors import InputError
from mobius_seg.export.graph import ExportGraph, example_inputs
from mobius_seg.export.litert_file import NamedGraph, delegated_facts, write_litert
from mobius_seg.export.session_litert import open_session
from mobius_seg.export.spec import OUTPUTS, GraphFile
from mobius_seg.pruning import PruningPolicy

TINY = {"image": [1, 3, 2, 2], "text": [4, 5]}


class _Interpreter:
    """Adds up its inputs, in the form that LiteRT's interpreter has."""

    threads: list[int | None] = []  # noqa: RUF012 - what the last session asked for

    def __init__(self, model_path: str, num_threads: int | None) -> None:
        if Path(model_path).read_bytes() != b"model":
            raise ValueError("not a\nmodel")
        self.threads.append(num_threads)

    def allocate_tensors(self) -> None:
        pass

    def get_signature_runner(self) -> Any:
        return _Runner()


class _Runner:
    """The signature of a file with the inputs of :data:`TINY`."""

    def __call__(self, image: np.ndarray, text: np.ndarray) -> dict[str, np.ndarray]:
        assert image.shape == (1, 3, 2, 2)
        assert text.shape == (4, 5)
        scores = image.sum() + text.sum(1)[None, None]
        return {"scores": scores, "objectness": scores[..., 0]}

    def get_input_details(self) -> dict[str, Any]:
        return {name: {"shape": np.array(shape)} for name, shape in TINY.items()}

    def get_output_details(self) -> dict[str, Any]:
        return {}


@pytest.fixture(autouse=True)
def _runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("ai_edge_litert.interpreter")
    module.Interpreter = _Interpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ai_edge_litert", ModuleType("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)


def _graph() -> GraphFile:
    inputs: dict[str, list[int | str]] = {key: [*shape] for key, shape in TINY.items()}
    return GraphFile(file="m", vocabulary="dynamic", names=(), inputs=inputs, outputs={})


def test_a_session_pads_names_and_takes_pictures_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(b"model")
    session = open_session(file, _graph(), 2)
    assert _Interpreter.threads[-1] == 2
    images = np.arange(36, dtype=np.float32).reshape(3, 3, 2, 2)
    text = np.arange(10, dtype=np.float32).reshape(2, 5)
    found = session.run(images, text)
    wanted = images.sum((1, 2, 3))[:, None, None] + text.sum(1)
    np.testing.assert_array_equal(found["scores"], wanted)
    assert found["objectness"].shape == (3, 1)
    with pytest.raises(InputError, match="5 names are asked for, and this export takes 4"):
        session.run(images, np.ones((5, 5), np.float32))


def test_a_file_of_another_description_is_told(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(b"model")
    graph = _graph()
    graph.inputs["text"] = [7, 5]
    with pytest.raises(InputError, match=r"model.json beside it says .*\[7, 5\].* export again"):
        open_session(file, graph, None)


def test_a_broken_file_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(b"else")
    with pytest.raises(InputError, match=r"model.tflite: LiteRT cannot open it: not a model$"):
        open_session(file, _graph(), None)


def test_an_operator_that_the_converter_lacks_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["Lowering not found: aten.some.default\n\nWhile executing %some"]
    words += ["another bug: Lowering not found: aten.some.default"]

    def convert(*_: object, **__: object) -> None:
        raise RuntimeError(words.pop(0))

    module = ModuleType("litert_torch")
    module.convert = convert  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "litert_torch", module)
    graph = ExportGraph(lively_network(), PruningPolicy(), None, padded=True)
    with pytest.raises(
        InputError, match=r"^mobius-test: .* take aten\.some\.default; .*litert say"
    ):
        write_litert(graph, tmp_path / "model.tflite", (64, 64))
    with pytest.raises(RuntimeError, match="another bug"):
        write_litert(graph, tmp_path / "model.tflite", (64, 64))


def test_what_xnnpack_took_lies_between_its_outputs_and_inputs() -> None:
    def operator(index: int, name: str, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
        return {"index": index, "op_name": name, "inputs": inputs, "outputs": outputs}

    operators = [
        operator(0, "CONV_2D", [0, 90], [1]),
        operator(1, "ADD", [1, 1], [2]),
        operator(2, "TOPK_V2", [2], [3, 4]),
        operator(3, "GATHER_ND", [2, 4], [5]),
        operator(4, "MUL", [5, 5], [6]),
        operator(5, "GATHER_ND", [6, 4], [7]),
        operator(6, "DELEGATE", [0, 90], [2]),
        operator(7, "DELEGATE", [5], [6]),
    ]
    assert delegated_facts(operators) == {
        "xnnpack_parts": 2,
        "builtin_operators": {"GATHER_ND": 2, "TOPK_V2": 1},
    }
    assert delegated_facts(operators[:6])["builtin_operators"]["CONV_2D"] == 1


@pytest.mark.slow
def test_the_named_graph_is_the_graph_as_a_program_too() -> None:
    """Its attributes must not hide those of the modules that torch.export makes."""
    graph = ExportGraph(lively_network(), PruningPolicy.static((10, 5), 2), None, padded=True)
    image, text = example_inputs(graph, 64, 64, batch=1)
    named, inputs = NamedGraph(graph).eval(), {"image": image, "text": text}
    with torch.no_grad():
        program = torch.export.export(named, (), inputs, strict=False)
        found = program.run_decompositions().module()(**inputs)
    for name, wanted in zip(OUTPUTS, graph(image, text), strict=True):
        torch.testing.assert_close(found[name], wanted)
