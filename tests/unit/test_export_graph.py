"""The exported module in torch: it says what the package says, under a static schedule."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.support.models import DIM, HashEncoder, lively_network

from mobius_seg.errors import InputError
from mobius_seg.export.graph import ExportGraph, example_inputs, make_program
from mobius_seg.export.parity import compare, judge, parity_texts
from mobius_seg.export.runtime import ExportedModel
from mobius_seg.export.schedule import find_schedule
from mobius_seg.export.session_torch import TorchSession
from mobius_seg.export.spec import SPEC_FILE, ExportSpec, GraphFile
from mobius_seg.instances import Instances
from mobius_seg.model import Mobius
from mobius_seg.operating_points import OperatingPoint, OperatingPoints
from mobius_seg.posthoc import ScoreMaps, StageMap
from mobius_seg.predictor import Predictor
from mobius_seg.presets import get_preset
from mobius_seg.prompts import Prompt, build_batch
from mobius_seg.pruning import PruningPolicy
from mobius_seg.static_points import static_points
from mobius_seg.types import TextPrompt

NAMES = ["cup", "spoon", "cat"]
POLICY = PruningPolicy.static((10, 5), 2)


@pytest.fixture(scope="module")
def network() -> Predictor:
    """A predictor whose static policy the graphs share."""
    return Predictor(lively_network(), text_encoder=HashEncoder(), device="cpu")


@pytest.fixture
def square(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture as wide as high: a fixed square input pads nothing."""
    return np.ascontiguousarray(np.concatenate([photo, photo[:32]])[:64, :64])


def _exported(
    predictor: Predictor,
    vocabularies: tuple[str, ...],
    *,
    policy: PruningPolicy = POLICY,
    size: tuple[int, int] | None = (64, 64),
    knots: StageMap | None = None,
) -> ExportedModel:
    """An export whose graphs run in torch."""
    graphs, sessions = [], {}
    for vocabulary in vocabularies:
        prompt: TextPrompt | None = None
        if vocabulary == "baked":
            prompt = build_batch([Prompt(names=tuple(NAMES))], predictor.text_encoder)
        elif vocabulary == "everything":
            prompt = TextPrompt.everything(DIM)
        sessions[vocabulary] = TorchSession(ExportGraph(predictor.network, policy, prompt))
        names = tuple(NAMES) if vocabulary == "baked" else ()
        graphs.append(
            GraphFile(
                file=f"{vocabulary}.onnx", vocabulary=vocabulary, names=names, inputs={}, outputs={}
            )
        )
    spec = ExportSpec(
        runtime="onnx",
        graphs=tuple(graphs),
        config=predictor.config,
        weights={"from": "random", "sha256": None},
        operating_point="fast",
        schedule={"layers": 2, "queries": [10, 10, 5], "origin": "test"},
        size=size,
        batch=None,
        precision="fp32",
        calibration={} if knots is None else {"names": knots},
        thresholds={},
        facts={},
    )
    return ExportedModel(spec, sessions, text_encoder=predictor.text_encoder)


def _same(found: Instances, wanted: Instances) -> None:
    assert len(wanted) > 1
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-5)
    assert found.names == wanted.names
    for i in range(len(wanted)):
        both = (found.mask(i) & wanted.mask(i)).sum()
        assert both / (found.mask(i) | wanted.mask(i)).sum() > 0.99
    np.testing.assert_array_equal(found.name_ids, wanted.name_ids)


@pytest.mark.parametrize("vocabulary", ["baked", "dynamic"])
def test_names_as_the_package_answers_them(
    network: Predictor, square: NDArray[np.uint8], vocabulary: str
) -> None:
    wanted = network.predict(square, names=NAMES, threshold=0.0, operating_point=POLICY)
    found = _exported(network, (vocabulary,)).predict(square, names=NAMES, threshold=0.0)
    _same(found, wanted)


def test_everything_as_the_package_answers_it(
    network: Predictor, square: NDArray[np.uint8]
) -> None:
    wanted = network.predict(square, threshold=0.0, operating_point=POLICY)
    found = _exported(network, ("everything",)).predict(square, threshold=0.0)
    _same(found, wanted)
    assert set(found.names) == {"object"}


def test_any_size_lays_pictures_out_as_the_package_does(
    network: Predictor, photo: NDArray[np.uint8]
) -> None:
    pictures = [photo, np.ascontiguousarray(photo.transpose(1, 0, 2)), photo[:30]]
    each = [["cup"], NAMES, ["cat", "cup"]]
    wanted = network.predict(
        pictures, names=each, threshold=0.0, size=96, names_per_instance=2, operating_point=POLICY
    )
    exported = _exported(network, ("dynamic",), size=None)
    found = exported.predict(pictures, names=each, threshold=0.0, size=96, names_per_instance=2)
    for ours, theirs in zip(found, wanted, strict=True):
        _same(ours, theirs)
        assert ours.image_size == theirs.image_size


def test_scores_are_mapped_as_the_last_stage_that_ran(
    network: Predictor, square: NDArray[np.uint8]
) -> None:
    knots = StageMap(temperature=2.0, knots=((0.0, 0.0), (0.5, 0.1), (1.0, 0.9)))
    exported = _exported(network, ("baked",), knots=knots)
    raw = exported.predict(square, threshold=0.0, calibrated=False)
    mapped = exported.predict(square, threshold=0.0)
    wanted = ScoreMaps(stages=(knots,)).apply(0, torch.from_numpy(raw.scores))
    np.testing.assert_allclose(mapped.scores, wanted.numpy(), rtol=1e-5)
    assert not np.allclose(mapped.scores, raw.scores)


def test_a_fixed_input_holds_pictures_of_any_shape(
    network: Predictor, photo: NDArray[np.uint8]
) -> None:
    found = _exported(network, ("baked",)).predict([photo, photo[:, :20]], threshold=0.0)
    assert [entry.image_size for entry in found] == [(48, 80), (48, 20)]
    assert all(len(entry) for entry in found)
    assert all(entry.masks.any((1, 2)).all() for entry in found)


@pytest.mark.parametrize(
    ("policy", "queries"),
    [(PruningPolicy(), 12), (POLICY, 5), (PruningPolicy.static((7,), 0), 7)],
)
def test_pruned_queries_leave(network: Predictor, policy: PruningPolicy, queries: int) -> None:
    graph = ExportGraph(network.network, policy, None)
    scores, objectness, boxes, masks = graph(*example_inputs(graph, 64, 96, batch=2, names=4))
    assert scores.shape == (2, queries, 4)
    assert objectness.shape == (2, queries)
    assert boxes.shape == (2, queries, 4)
    assert masks.shape == (2, queries, 16, 24)
    assert bool(((scores > 0) & (scores < 1)).all())


def test_fixed_names_leave_no_text_in_the_graph(network: Predictor) -> None:
    prompt = build_batch([Prompt(names=("cup",))], network.text_encoder)
    graph = ExportGraph(network.network, POLICY, prompt)
    image = torch.rand(1, 3, 64, 64)
    before = graph(image)
    with torch.no_grad():
        graph.network.text_projection.weight.zero_()
        graph.network.pixel_decoder.fuse.fusion.text_key_value.weight.zero_()
    for ours, theirs in zip(graph(image), before, strict=True):
        assert torch.equal(ours, theirs)


def test_adaptive_points_get_the_packages_static_schedule() -> None:
    config = get_preset("mobius-n")
    adaptive = PruningPolicy(thresholds=(0.1,), floors=((0.2,),))
    points = OperatingPoints(
        {"full": OperatingPoint(PruningPolicy()), "fast": OperatingPoint(adaptive)}
    )
    found = find_schedule(config, points, "fast")
    assert found.policy == static_points(config).policy("fast")
    assert "adaptive" in found.origin
    own = OperatingPoints({"full": OperatingPoint(PruningPolicy()), "fast": OperatingPoint(POLICY)})
    assert find_schedule(config, own, "fast").policy == POLICY
    assert find_schedule(config, own, "full").queries(config) == (100,) * 5
    assert find_schedule(config, own, "fast").queries(config) == (10, 10, 5)
    with pytest.raises(InputError, match="balanced"):
        find_schedule(config, own, "balanced")
    with pytest.raises(InputError, match="adaptive"):
        ExportGraph(lively_network(), adaptive, None)


def test_what_cannot_be_asked(network: Predictor, square: NDArray[np.uint8]) -> None:
    baked, dynamic = _exported(network, ("baked",)), _exported(network, ("dynamic",))
    everything = _exported(network, ("everything",))
    for model, arguments, words in (
        (baked, {"names": ["dog"]}, "'dog' is not in this export.*cup, spoon, cat"),
        (baked, {"expression": "the cup"}, "expression"),
        (baked, {"budget": "1layer"}, "one schedule"),
        (baked, {"operating_point": "full"}, "'fast'"),
        (baked, {"size": 96}, "takes 64x64 alone"),
        (dynamic, {}, "looks for names"),
        (everything, {"names": ["cup"]}, "knows no names"),
    ):
        with pytest.raises(InputError, match=words):
            model.predict(square, **arguments)
    assert len(baked.predict(square, names=[])) == 0
    for image in (np.zeros((1, 3, 64, 96), np.float32), np.zeros((3, 64, 64), np.float32)):
        with pytest.raises(InputError, match="64x64"):
            baked.run(image)
    with pytest.raises(InputError, match="takes text vectors"):
        dynamic.run(np.zeros((1, 3, 64, 64), np.float32))
    with pytest.raises(InputError, match="384"):
        dynamic.run(np.zeros((1, 3, 64, 64), np.float32), np.zeros((2, 5), np.float32))


def test_other_names_go_to_the_second_graph(network: Predictor, square: NDArray[np.uint8]) -> None:
    both = _exported(network, ("baked", "dynamic"))
    wanted = network.predict(square, names=["dog"], threshold=0.0, operating_point=POLICY)
    _same(both.predict(square, names=["dog"], threshold=0.0), wanted)
    assert set(both.predict(square, threshold=0.0).names) <= set(NAMES)


def test_the_description_survives_its_file(network: Predictor, tmp_path: Path) -> None:
    knots = StageMap(temperature=1.5, knots=((0.0, 0.0), (1.0, 0.9)))
    spec = _exported(network, ("baked", "dynamic"), knots=knots).spec
    (tmp_path / SPEC_FILE).write_text(spec.to_json())
    assert ExportSpec.read(tmp_path) == spec
    values = json.loads(spec.to_json())
    for change in ({"format": 9}, {"graphs": []}, {"runtime": "x"}, {"size": [64, 65]}):
        (tmp_path / SPEC_FILE).write_text(json.dumps(values | change))
        with pytest.raises(InputError, match=SPEC_FILE if "size" not in change else "64x65"):
            ExportSpec.read(tmp_path)
    outside = [{**values["graphs"][0], "file": "../model.onnx"}]
    (tmp_path / SPEC_FILE).write_text(json.dumps(values | {"graphs": outside}))
    with pytest.raises(InputError, match="not one of the folder"):
        ExportSpec.read(tmp_path)


def test_the_comparison_sees_differences() -> None:
    generator = np.random.default_rng(0)
    one = {
        "scores": generator.random((2, 6, 3)).astype(np.float32),
        "objectness": generator.random((2, 6)).astype(np.float32),
        "boxes": generator.random((2, 6, 4)).astype(np.float32),
        "masks": generator.standard_normal((2, 6, 8, 8)).astype(np.float32),
    }
    perfect = {"score": 0, "logit": 0, "mask_iou": 1, "mask_iou_min": 1, "box_iou": 1, "classes": 1}
    assert compare(one, one) == pytest.approx(perfect)
    turned = {key: value[:, ::-1] for key, value in one.items()}
    assert compare(one, turned) == pytest.approx(perfect)
    other = compare(one, {**one, "masks": -one["masks"], "scores": one["scores"][..., ::-1]})
    assert other["mask_iou"] == 0
    assert other["classes"] < 1
    assert other["score"] > 0.1
    row = {**perfect, "names": 3, "batch": 2}
    assert all(bar["holds"] for bar in judge("fp32", [row], {"difference": -0.05}))
    assert [bar["holds"] for bar in judge("fp32", [row | {"mask_iou": 0.98}], {})] == [False]
    assert [bar["holds"] for bar in judge("fp16", [row], {"difference": 0.21})] == [False]


def test_made_up_texts_follow_known_ones() -> None:
    known = np.eye(384, dtype=np.float32)[:3]
    texts_KD = parity_texts(known, 5, 384)
    assert texts_KD.shape == (5, 384)
    np.testing.assert_array_equal(texts_KD[:3], known)
    np.testing.assert_allclose(np.linalg.norm(texts_KD, axis=1), 1, rtol=1e-5)


def test_one_picture_a_call_where_the_graph_takes_no_more(
    network: Predictor, square: NDArray[np.uint8]
) -> None:
    model = _exported(network, ("baked",))
    wanted = model.predict([square, square[::-1].copy()], threshold=0.0)
    model.spec = dataclasses.replace(model.spec, batch=1)
    for ours, theirs in zip(
        model.predict([square, square[::-1].copy()], threshold=0.0), wanted, strict=True
    ):
        _same(ours, theirs)


@pytest.mark.long
def test_a_graph_of_any_size_keeps_nothing_of_its_examples_size() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(
        get_preset("mobius-test"),
        pixel_decoder="multiscale",
        mixing="deformable",
        fusion="levels",
        box_steps="relative",
        box_reading=8,
    )
    graph = ExportGraph(Mobius(config).eval(), PruningPolicy(), None)
    program = make_program(graph, 64, 64, dynamic_size=True).module()
    for height, width, batch in ((96, 160, 1), (64, 128, 3)):
        inputs = example_inputs(graph, height, width, batch=batch)
        with torch.no_grad():
            expected, found = graph(*inputs), program(*inputs)
        for ours, theirs in zip(expected, found, strict=True):
            torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)
