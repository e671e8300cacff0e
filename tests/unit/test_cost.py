"""Three counts of one forward pass: dispatch, closed forms, exported graph.

Every switch between the baseline and our model is counted alone, with small networks; the figures
of the design are checked at their own size in closed form.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from mobius_seg.config import ModelConfig
from mobius_seg.cost.certify import certified_profile, compare, profile_at
from mobius_seg.cost.closed import closed_form, fixed_terms, layer_cost, mask_cost
from mobius_seg.cost.dispatch import count, meta_inputs, meta_network
from mobius_seg.cost.graph import graph_macs, walk
from mobius_seg.cost.limits import BACKBONES, bars, limits
from mobius_seg.cost.parts import MASK_PRODUCT, Follower, parameter_part, part_order
from mobius_seg.cost.record import part_sum, workload
from mobius_seg.cost.report import as_json, kept_queries, operating_points
from mobius_seg.errors import InputError
from mobius_seg.model import Mobius
from mobius_seg.presets import get_preset
from mobius_seg.types import TextPrompt

SIZE = (800, 1344)
RESNET50 = (256, 512, 1024, 2048)
SMALL: dict[str, Any] = {
    "backbone": "test_resnet",
    "width": 64,
    "mask_width": 32,
    "fusion_width": 128,
    "mixing_layers": 1,
    "mixing_ffn": 96,
    "decoder_layers": 2,
    "decoder_ffn": 160,
    "queries": 20,
}


def small(preset: str, **changes: Any) -> ModelConfig:
    return replace(get_preset(preset), **{**SMALL, **changes})


# The way from the baseline to our model, one field at a time, and a few fields from the other end.
STEPS = [
    small("mobius-m"),
    small("glee-lite"),
    small("glee-lite", pixel_decoder="bottleneck"),
    small("glee-lite", fusion="bottleneck"),
    small("glee-lite", share_fusion_scores=False),
    small("glee-lite", share_value_projection=True),
    small("glee-lite", memory_strides=(16,)),
    small("glee-lite", token_strides=(8, 16)),
    small("glee-lite", width=32, heads=4),
    small("glee-lite", head_layers=2),
    small("glee-lite", box_every_token=False),
    small("glee-lite", selection_masks=False),
    small("glee-lite", cross_attention="plain"),
    small("glee-lite", mixing="plain"),
    small("mobius-m", pixel_decoder="multiscale"),
    small("mobius-m", fusion="levels"),
    small("mobius-m", bottleneck_stride=32),
    small("mobius-m", bottleneck_stride=64),
    small("mobius-m", name_stride=16),
    small("mobius-m", name_map=False),
    small("mobius-n"),
    small("mobius-n", refine_expansion=3, refine_kernel=5, refine_layers=2),
    small("mobius-n", box_steps="relative", box_reading=8, box_grid=3),
    small("mobius-n", mask_conv=24),
    small("mobius-n", candidates=30),
    small("mobius-m", candidates=10_000),
    small("mobius-m", mask_conv=256),
    small("mobius-m", box_reading=4, box_stride=16),
    small("mobius-n", share_value_projection=False, bottleneck_stride=8),
]


@pytest.mark.parametrize("config", STEPS, ids=range(len(STEPS)))
def test_closed_form_and_dispatch_agree_to_the_last_operation(config: ModelConfig) -> None:
    network, work = Mobius(config).eval(), workload(config, (96, 160), 5, 11)
    subwords = torch.zeros(1, work.subwords, 384) if work.subwords else None
    prompt = TextPrompt(torch.zeros(1, 5, 384), None, subwords)
    counted = dict(count(network, torch.zeros(1, 3, 96, 160), prompt).macs)
    assert counted.pop("backbone") > 0
    assert counted == closed_form(config, network.backbone.channels, work)


EXPORTED = [*STEPS[:3], STEPS[12], STEPS[-2], get_preset("mobius-test"), get_preset("mobius-p")]


@pytest.mark.slow
@pytest.mark.parametrize("config", EXPORTED, ids=range(len(EXPORTED)))
def test_graph_and_dispatch_agree_to_the_last_operation(config: ModelConfig) -> None:
    work = workload(config, (64, 96), 5, 11)
    counted = count(meta_network(config), *meta_inputs(config, work)).macs
    assert graph_macs(config, work) == counted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "backbone", "arguments"),
    [
        (
            "mobius-l",
            "swin_tiny_patch4_window7_224",
            {"embed_dim": 16, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 4, 8)},
        ),
        ("mobius-h", "eva02_tiny_patch14_224", {"depth": 2, "embed_dim": 96}),
    ],
)
def test_large_backbones_agree(preset: str, backbone: str, arguments: dict[str, Any]) -> None:
    given = get_preset(preset).backbone_args + tuple(arguments.items())
    config = small(preset, backbone=backbone, backbone_args=given)
    certified_profile(config, workload(config, (64, 96), 5), with_graph=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["glee-lite", "mobius-m"])
def test_three_counts_at_full_size(name: str) -> None:
    config = get_preset(name)
    certified_profile(config, workload(config, SIZE, 80, 260), with_graph=True)


def test_the_baseline_costs_what_the_design_says() -> None:
    config = get_preset("glee-lite")
    macs = closed_form(config, RESNET50, workload(config, SIZE, 80, 260))
    wanted = {
        "pixel_decoder.projections": 5.1,
        "pixel_decoder.mix": 173.9,
        "pixel_decoder.fuse": 71.2,
        "pixel_decoder.mask_features": 48.4,
        "pixel_decoder": 299.0,
        "transformer_decoder": 35.7,
    }
    for part, gmac in wanted.items():
        assert part_sum(macs, part) / 1e9 == pytest.approx(gmac, rel=0.03), part


def test_the_bar_of_the_pixel_decoder() -> None:
    """At most 0.40 of the baseline's, at the size and vocabulary of the published tables."""
    found = {}
    for name in ("mobius-m", "glee-lite"):
        config = get_preset(name)
        macs = closed_form(config, RESNET50, workload(config, SIZE, 80, 260))
        found[name] = part_sum(macs, "pixel_decoder")
    assert found["mobius-m"] <= 0.40 * found["glee-lite"]


def test_pooled_names_cost_a_quarter_at_the_coarser_stride() -> None:
    config = get_preset("mobius-m")
    costs = []
    for changes in ({"name_stride": 16}, {}, {"name_map": False}):
        own = replace(config, **changes)
        costs.append(closed_form(own, RESNET50, workload(own, SIZE, 80, 260)))
    fine, coarse, without = (part_sum(macs, "transformer_decoder") for macs in costs)
    assert fine - without == 4 * (coarse - without)
    assert costs[0]["pixel_decoder.name_map"] - costs[1]["pixel_decoder.name_map"] == (
        3 * 25 * 42 * RESNET50[2] * config.width
    )


@pytest.mark.slow
def test_the_backbone_of_the_baseline() -> None:
    config = get_preset("glee-lite")
    profile = count(meta_network(config), *meta_inputs(config, workload(config, SIZE, 80, 260)))
    assert profile.part_gmac("backbone") == pytest.approx(87.6, rel=0.03)


@pytest.mark.parametrize("preset", ["mobius-test", "glee-lite"])
@pytest.mark.parametrize("kept", [[7, 3], [6, 6], [5], [99, 2]])
def test_pruned_layers_cost_what_the_closed_form_says(preset: str, kept: list[int]) -> None:
    config = small(preset)
    work = workload(config, (64, 96), 4, 9)
    counted = count(meta_network(config), *meta_inputs(config, work), kept).macs
    stated = profile_at(config, (64, 96), 4, 9, kept).macs
    assert stated == counted
    plan = [min(20, queries) for queries in kept]
    parts = fixed_terms(config, meta_network(config).backbone.channels, work, plan[0])
    total = stated["backbone"] + sum(parts.values()) + mask_cost(config, 64, 96, plan[-1])
    assert total + sum(layer_cost(config, 64, 96, 4, q) for q in plan) == sum(stated.values())


def test_dropped_after_the_selection_and_before_the_masks() -> None:
    config = get_preset("mobius-test")
    full, dropped = (
        profile_at(config, (64, 64), 4, None, [6, 4], selected=12, masks=m).macs for m in (4, 1)
    )
    assert full[MASK_PRODUCT] == 4 * dropped[MASK_PRODUCT]
    less = profile_at(config, (64, 64), 4, None, [6, 4]).macs
    assert full["transformer_decoder.selection"] > less["transformer_decoder.selection"]
    without = profile_at(config, (64, 64), 4, None, []).macs
    assert not [part for part in without if ".layer" in part]


@pytest.mark.parametrize("kept", [[5, 5, 5], [5, 0]])
def test_plans_that_cannot_run_are_refused(kept: list[int]) -> None:
    with pytest.raises(InputError, match="allowed"):
        profile_at(get_preset("mobius-test"), (64, 64), 4, None, kept)


def test_text_tokens_count_where_subwords_are_fused() -> None:
    ours, baseline = small("mobius-m"), small("glee-lite")
    assert workload(ours, SIZE, 80, 260).text_tokens == 81
    assert workload(baseline, SIZE, 80, 260).text_tokens == 260
    assert workload(baseline, SIZE, 80).text_tokens == 81
    with pytest.raises(InputError, match="81 or more"):
        workload(baseline, SIZE, 80, 80)


def test_counts_that_differ_are_an_error() -> None:
    compare({"a": 10_000, "b": 5}, {"a": 10_009, "b": 5}, "other")
    with pytest.raises(AssertionError, match="a: dispatch counts"):
        compare({"a": 10_000}, {"a": 10_020}, "other")
    with pytest.raises(AssertionError, match="b: dispatch counts"):
        compare({"a": 1, "b": 1}, {"a": 1}, "other")
    compare({"a": 1, "b": 1}, {"a": 1}, "other", without=("b",))


def test_an_operator_unknown_to_the_graph_is_an_error() -> None:
    class Unknown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.inv(x)

    program = torch.export.export(Unknown(), (torch.eye(3),))
    with pytest.raises(NotImplementedError, match="linalg_inv"):
        walk(program.graph)


def test_shared_modules_belong_to_the_layer_that_runs() -> None:
    follower = Follower()
    names = [
        "decoder.selection", "decoder.heads.mask", "decoder.memories.0", "decoder.position.0",
        "decoder.layers.0.feed_forward", "decoder.heads", "decoder.memories.1.value",
        "decoder.position", "decoder.layers.1", "decoder.heads.box.0", "decoder",
    ]  # fmt: skip
    found = [(follower.part(name) or "-").removeprefix("transformer_decoder.") for name in names]
    assert found == [
        "selection", "selection", "layer1.cross_attention.value", "layer1.position", "layer1.ffn",
        "layer1.heads", "layer2.cross_attention.value", "layer2.position",
        "layer2.cross_attention.attention", "layer2.heads", "-",
    ]  # fmt: skip
    assert parameter_part("decoder.heads.box.0.weight") == "transformer_decoder.heads"
    assert parameter_part("decoder.position.0.bias") == "transformer_decoder.position"


def test_every_part_has_its_place() -> None:
    config = small("glee-lite")
    macs = closed_form(config, (64, 64, 64, 64), workload(config, (64, 64), 3, 9))
    ordered = sorted(sorted(macs), key=part_order)
    assert ordered[0] == "text"
    assert ordered[-1] == MASK_PRODUCT
    assert ordered.index("pixel_decoder.mix") < ordered.index("transformer_decoder.selection")
    first = ordered.index("transformer_decoder.layer1.cross_attention.value")
    assert ordered[first + 1 :].index("transformer_decoder.layer2.position") > 0


def test_json_of_a_profile() -> None:
    config = get_preset("mobius-test")
    profile = profile_at(config, (64, 64), 4, None, [12, 12])
    half = profile_at(config, (64, 64), 4, None, [12])
    values = as_json(half, profile)
    assert set(values["gmac"]) == {
        "backbone", "pixel_decoder", "transformer_decoder", "text", "total",
    }  # fmt: skip
    assert sum(values["parts"].values()) == pytest.approx(values["gmac"]["total"])
    assert sum(values["shares"].values()) == pytest.approx(1)
    assert values["params"] == config.expected_params
    ratio = values["ratio"]
    assert ratio["gmac"]["backbone"] == ratio["backbone"] == 1
    assert 0 < ratio["transformer_decoder"] < 1
    assert ratio["parts"]["transformer_decoder.layer2.ffn"] == 0
    backwards = as_json(profile, half)["ratio"]["parts"]
    assert backwards["transformer_decoder.layer2.ffn"] is None


def test_operating_points() -> None:
    config = get_preset("mobius-test")
    assert kept_queries(config, "full") is None
    assert operating_points(config)["full"] == (12, 12)
    assert kept_queries(config, "fast", {"full": (12, 12), "fast": [6, 3]}) == (6, 3)
    with pytest.raises(InputError, match="no operating point 'slow'; allowed: full, b"):
        kept_queries(config, "slow")


@pytest.mark.slow
def test_a_smaller_backbone_leaves_the_decoders_as_they_are() -> None:
    parts = bars(limits((64, 96), 5, 9))
    assert list(parts) == list(BACKBONES)
    large, _, least = parts.values()
    assert large["backbone"] > 5 * least["backbone"]
    assert large["mixing"] == least["mixing"]
    shares = [values["backbone"] / sum(values.values()) for values in parts.values()]
    assert shares == sorted(shares, reverse=True)
