"""Budgets, the ladder they climb, and the costs they are solved with."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from mobius_seg.budget import Budget, _rounded_up, ladder, plan_gmac, solve
from mobius_seg.cost.certify import executed_profile
from mobius_seg.cost.closed import competing_tokens
from mobius_seg.cost.dispatch import OperatorCounter
from mobius_seg.cost.record import Workload
from mobius_seg.errors import InputError
from mobius_seg.latency import LatencyProfile, measure_latency
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.pruned_decoder import run_pruned
from mobius_seg.pruning import PruningPolicy
from mobius_seg.types import TextPrompt

CONFIG = get_preset("mobius-test")
TIMES = LatencyProfile(
    encoder_ms=10.0,
    memory_ms=1.0,
    queries=(1, 10, 100),
    selection_ms=(1.0, 1.0, 2.0),
    layer_ms=(1.0, 2.0, 11.0),
    mask_ms=(0.0, 1.0, 10.0),
)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("2.5gmac", 2.5, "gmac"),
        (" 2.5 GMAC", 2.5, "gmac"),
        ("3layers", 3, "layers"),
        ("1layer", 1, "layers"),
        ("80ms", 80, "ms"),
        (".5ms", 0.5, "ms"),
    ],
)
def test_budgets_are_read(text: str, amount: float, unit: str) -> None:
    budget = Budget.parse(text)
    assert (budget.amount, budget.unit) == (amount, unit)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    "text",
    [
        *("", "3", "gmac", "-1gmac", "0ms", "1.5layers", "1e3ms", "nanms", "2 gflops", 3, None),
        *("9" * 400 + "layers", "9" * 400 + "gmac", "0." + "0" * 300 + "1gmac", ["3layers"]),
    ],
)
def test_bad_budgets_are_one_line(text: object) -> None:
    with pytest.raises(
        InputError, match=r"budget is .*allowed: .*2\.5gmac, 3layers, 80ms"
    ) as caught:
        Budget.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("queries", "layers"), [(12, 2), (100, 4), (300, 9), (5, 3), (1, 1)])
def test_a_rung_never_has_less_than_the_one_below(queries: int, layers: int) -> None:
    plans = ladder(queries, layers)
    assert len(plans[0]) == 1
    assert plans[-1] == (queries,) * (layers + 1)
    for low, high in pairwise(plans):
        assert len(low) <= len(high)
        assert all(a <= b for a, b in zip(low, high, strict=False))


def test_more_budget_never_runs_less() -> None:
    config = get_preset("mobius-n")
    work = Workload(height=256, width=256, names=80)
    tokens = competing_tokens(config, work)

    def gmac(plan: tuple[int, ...]) -> float:
        return plan_gmac(config, work, plan)

    for of_plan, unit, most in ((gmac, "gmac", 1.1 * gmac((100,) * 5)), (TIMES.plan_ms, "ms", 90)):
        before = PruningPolicy.static((1,), 0)
        for step in range(1, 200):
            budget = Budget(max(most * step / 200, of_plan(ladder(100, 4)[0])), unit)  # type: ignore[arg-type]
            policy = solve(budget, config, of_plan, tokens)
            assert policy.depth(4) >= before.depth(4)
            for layer in range(1, 5):
                assert policy.cap(layer, 100) >= before.cap(layer, 100) or layer > before.depth(4)
            plan = (
                policy.cap(1, 100),
                *(policy.cap(i, 100) for i in range(1, policy.depth(4) + 1)),
            )
            assert of_plan(plan) <= budget.amount
            before = policy
        assert before.cap(4, 100) == 100 or unit == "ms"


def test_an_impossible_budget_names_the_least_possible() -> None:
    with pytest.raises(InputError, match="least possible for this image is 12ms") as caught:
        solve(Budget(3, "ms"), get_preset("mobius-n"), TIMES.plan_ms, 500)
    assert "\n" not in str(caught.value)
    assert solve(Budget(12, "ms"), get_preset("mobius-n"), TIMES.plan_ms, 500).layers == 0


def test_a_budget_in_layers_needs_no_costs() -> None:
    assert solve(Budget(3, "layers"), get_preset("mobius-n"), None, 0).layers == 3
    assert solve(Budget(30, "layers"), get_preset("mobius-n"), None, 0).layers == 4


def test_a_budget_on_top_of_a_policy_keeps_both_limits() -> None:
    base = PruningPolicy(keep=(100, 20), layers=3, settle=0.1)
    policy = solve(Budget(1e6, "ms"), get_preset("mobius-n"), TIMES.plan_ms, 500, base)
    assert policy == replace(base, keep=(100, 20, 20, 20))
    assert solve(Budget(2, "layers"), get_preset("mobius-n"), None, 0, base).layers == 2


@pytest.mark.parametrize("kind", ["plain", "deformable"])
def test_costs_equal_the_dispatch_counter(kind: str) -> None:
    """The closed forms, pruned image by image."""
    config = replace(CONFIG, cross_attention=kind, memory_strides=(16, 32))
    network = Mobius(config).eval()
    images = torch.rand(1, 3, 64, 96)
    prompt = TextPrompt(torch.randn(1, 5, 384))
    work = Workload(height=64, width=96, names=5)
    for policy, queries in (
        (PruningPolicy(), (12, 12, 12)),
        (PruningPolicy.static((11, 7)), (11, 11, 7)),
        (PruningPolicy.static((9,), 0), (9,)),
    ):
        counter = OperatorCounter()
        with torch.no_grad(), counter.following(network), counter:
            (one,) = run_pruned(network, network.encode(images, prompt), policy)
            with counter.inside("mask product"):
                one.output.mask_logits()
        assert one.queries == queries
        cost = executed_profile(config, work, queries).macs
        assert sum(cost.values()) == sum(counter.macs.values())
        assert cost["backbone"] == counter.macs["backbone"]


def test_latency_is_measured_and_read_again() -> None:
    network = Mobius(CONFIG).eval()
    found = measure_latency(
        network, torch.rand(1, 3, 64, 64), TextPrompt(torch.randn(1, 3, 384)), 1
    )
    assert found.queries == (1, 3, 6, 12)
    assert found.plan_ms((12, 12, 12)) > found.plan_ms((12, 12)) > found.encoder_ms > 0
    assert LatencyProfile.from_json(found.to_json()) == found
    for text in ("{}", "[]", "3", found.to_json().replace("layer_ms", "layer")):
        with pytest.raises(InputError, match=r"x\.json: not a latency profile"):
            LatencyProfile.from_json(text, "x.json")


def test_times_between_the_measured_numbers() -> None:
    assert TIMES.plan_ms((1,)) == 11.0
    assert TIMES.plan_ms((10, 55)) == pytest.approx(10 + 1 + 1 + 6.5 + 5.5)
    assert TIMES.plan_ms((500, 500)) == pytest.approx(10 + 1 + 2 + 11 + 10)


@pytest.mark.parametrize("value", [0.012345, 0.0999, 1.0, 99.96, 100.0, 1234.5, 12345.6, 1e7])
def test_the_least_possible_can_be_typed_in(value: float) -> None:
    text = _rounded_up(value)
    assert value <= Budget.parse(f"{text}ms").amount <= 1.01 * value
    again = Budget(value, "ms")
    assert Budget.parse(str(again)) == again
