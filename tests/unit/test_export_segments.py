"""Segments chained in torch: what the package's adaptive pruning says, with the same receipts."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.support.models import HashEncoder, lively_network

from mobius_seg.errors import InputError
from mobius_seg.export.chain import CHAIN, ChainSession, chain_facts, open_chain
from mobius_seg.export.chain_file import chain_schedule
from mobius_seg.export.chain_parity import chain_cases
from mobius_seg.export.graph import ExportGraph
from mobius_seg.export.parity import judge
from mobius_seg.export.runtime import ExportedModel
from mobius_seg.export.segments import segment_parts
from mobius_seg.export.session import Array
from mobius_seg.export.spec import ExportSpec, GraphFile
from mobius_seg.instances import Instances
from mobius_seg.operating_points import OperatingPoint, OperatingPoints
from mobius_seg.posthoc import ScoreMaps, StageMap
from mobius_seg.predictor import Predictor
from mobius_seg.presets import get_preset
from mobius_seg.prompts import Prompt, build_batch
from mobius_seg.pruning import PruningPolicy

NAMES = ["cup", "spoon", "cat"]
MAPS = ScoreMaps(
    stages=tuple(
        StageMap(temperature=t, knots=((0.0, 0.0), (0.5, y), (1.0, 0.95)))
        for t, y in ((1.0, 0.2), (1.5, 0.3), (0.8, 0.4))
    )
)
HALF = PruningPolicy(thresholds=(0.0, 1.0), floors=((0.335, 0.335), (0.34, 0.34)), least=2)
POLICIES = {
    "full": PruningPolicy(),
    "static": PruningPolicy.static((10, 5), 2),
    "floors": HALF,
    "stops": dataclasses.replace(HALF, settle=100.0),
    "goes on": dataclasses.replace(HALF, settle=0.0),
}


class _TorchSegment:
    """A segment before any exporter."""

    def __init__(self, module: torch.nn.Module, names: list[str]) -> None:
        self._module, self._names = module, names

    @torch.inference_mode()
    def run(self, _outputs: None, feed: dict[str, Array]) -> list[Array]:
        assert sorted(feed) == sorted(self._names)
        found = self._module(*(torch.from_numpy(feed[name]) for name in self._names))
        return [value.numpy() for value in (found if isinstance(found, tuple) else (found,))]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(lively_network(), text_encoder=HashEncoder(), device="cpu")


@pytest.fixture
def square(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.concatenate([photo, photo[:32]])[:64, :64])


def _graph(predictor: Predictor, policy: PruningPolicy, dynamic: bool) -> ExportGraph:
    prompt = None
    if not dynamic:
        prompt = build_batch([Prompt(names=tuple(NAMES))], predictor.text_encoder)
    caps = PruningPolicy.static(policy.keep, policy.layers)
    return ExportGraph(predictor.network, caps, prompt)


def _chain(graph: ExportGraph, policy: PruningPolicy, maps: ScoreMaps | None) -> ChainSession:
    parts = segment_parts(graph, (64, 64), policy.depth(graph.network.config.decoder_layers))
    segments = [_TorchSegment(module, names) for module, _, names, _, _ in parts.values()]
    return ChainSession(graph.network.config, segments, policy, maps)


def _exported(
    predictor: Predictor, policy: PruningPolicy, dynamic: bool = False, maps: Any = None
) -> ExportedModel:
    session = _chain(_graph(predictor, policy, dynamic), policy, maps)
    vocabulary = "dynamic" if dynamic else "baked"
    names = () if dynamic else tuple(NAMES)
    graph = GraphFile(file="e.onnx", vocabulary=vocabulary, names=names, inputs={}, outputs={})
    spec = ExportSpec(
        runtime="onnx",
        graphs=(graph,),
        config=predictor.config,
        weights={"from": "random", "sha256": None},
        operating_point="fast",
        schedule={"layers": 2, "queries": [12, 12, 12], "origin": "test"},
        size=(64, 64),
        batch=1,
        precision="fp32",
        calibration={} if maps is None else {"names": maps.stages[-1]},
        thresholds={},
        facts={CHAIN: chain_facts(predictor.config, ["e", "l", "m"], policy, maps)},
    )
    return ExportedModel(spec, {vocabulary: session}, text_encoder=predictor.text_encoder)


def _same(found: Instances, wanted: Instances) -> None:
    assert len(wanted) > 1
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-5)
    assert found.names == wanted.names
    assert found.receipt is not None
    assert wanted.receipt is not None
    assert found.receipt.queries == wanted.receipt.queries
    assert found.receipt.masks == wanted.receipt.masks
    for i in range(len(wanted)):
        both = (found.mask(i) & wanted.mask(i)).sum()
        assert both / (found.mask(i) | wanted.mask(i)).sum() > 0.99


@pytest.mark.parametrize("point", POLICIES)
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_chain_answers_as_the_package_does(
    predictor: Predictor, square: NDArray[np.uint8], point: str, dynamic: bool
) -> None:
    policy = POLICIES[point]
    pictures = [square, square[::-1].copy()]
    wanted = predictor.predict(pictures, names=NAMES, threshold=0.1, operating_point=policy)
    found = _exported(predictor, policy, dynamic).predict(pictures, names=NAMES, threshold=0.1)
    for ours, theirs in zip(found, wanted, strict=True):
        _same(ours, theirs)


def test_the_policies_prune_and_stop(predictor: Predictor, square: NDArray[np.uint8]) -> None:
    queries = {}
    for point, policy in POLICIES.items():
        receipt = _exported(predictor, policy).predict(square, threshold=0.1).receipt
        assert receipt is not None
        queries[point] = receipt.queries
        assert receipt.gmac["total"] > 0
    assert queries["full"] == (12, 12, 12)
    assert queries["static"] == (10, 10, 5)
    assert len(queries["floors"]) == len(queries["goes on"]) == 3
    assert queries["floors"][1] < 12
    assert len(queries["stops"]) == 2


@pytest.mark.parametrize("calibrated", [True, False])
def test_maps_are_read_as_the_package_reads_them(
    predictor: Predictor, square: NDArray[np.uint8], calibrated: bool
) -> None:
    policy = PruningPolicy(
        thresholds=(0.0, 1.0), floors=((0.1, 0.3), (0.15, 0.5)), least=2, settle=0.5, sure=0.1
    )
    ours = _exported(predictor, policy, maps=MAPS)
    session = ours._sessions["baked"]
    assert isinstance(session, ChainSession)
    found = ours.predict(square, threshold=0.2, calibrated=calibrated)
    graph = _graph(predictor, policy, dynamic=False)
    rows = chain_cases(graph, session, np.random.default_rng(0).random((2, 3, 64, 64), "f"), None)
    assert all(row["receipt"] for row in rows)
    assert all(bar["holds"] for bar in judge("fp32", rows, {}))
    assert not judge("fp32", [{**rows[0], "receipt": False}], {})[1]["holds"]
    raw = _exported(predictor, policy, maps=None).predict(square, threshold=0.0)
    assert (found.scores >= 0.2).all()
    assert len(found) <= len(raw)


def test_what_cannot_be_a_chain(predictor: Predictor) -> None:
    points = OperatingPoints({"full": OperatingPoint(PruningPolicy())})
    with pytest.raises(InputError, match="mobius-m cannot be cut"):
        chain_schedule(get_preset("mobius-m"), points, "full")
    none = OperatingPoints({"full": OperatingPoint(PruningPolicy.static((), 0))})
    with pytest.raises(InputError, match="runs no layer"):
        chain_schedule(predictor.config, none, "full")
    found = chain_schedule(
        predictor.config, OperatingPoints({"fast": OperatingPoint(HALF)}), "fast"
    )
    assert found.policy.form == "full"
    assert "looks at each picture" in found.origin
    with pytest.raises(InputError, match="one a call"):
        _exported(predictor, HALF)._sessions["baked"].run(np.zeros((2, 3, 64, 64), "f"), None)


def test_a_broken_description_is_said(predictor: Predictor, tmp_path: Any) -> None:
    spec = _exported(predictor, HALF).spec
    for facts, words in (
        ({}, "malformed"),
        (spec.facts[CHAIN], "e: no such file"),
        ({**spec.facts[CHAIN], "layers": 3}, "malformed"),
    ):
        with pytest.raises(InputError, match=words):
            open_chain(tmp_path, dataclasses.replace(spec, facts={CHAIN: facts}), None)
