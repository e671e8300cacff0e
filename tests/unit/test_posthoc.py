"""Score maps as data: strictly increasing, exact where they change nothing, strict when read."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from mobius_seg.calibration_file import Calibration, PrecisionTable
from mobius_seg.errors import InputError
from mobius_seg.posthoc import ScoreMaps, StageMap

BENT = StageMap(temperature=2.0, knots=((0.0, 0.1), (0.5, 0.2), (1.0, 0.9)))
MAPS = ScoreMaps(stages=(StageMap(), BENT))
TABLE = PrecisionTable(thresholds=(0.1, 0.4, 0.7), precision=(0.2, 0.6, 0.5))


def test_identity_changes_no_bit() -> None:
    scores = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
    maps = ScoreMaps.identity(4)
    assert len(maps.stages) == 4
    for stage in range(4):
        assert torch.equal(maps.apply(stage, scores), scores)


def test_map_is_temperature_then_lines_between_knots() -> None:
    scores = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.8, 0.99]], dtype=torch.float64)
    softened = torch.sigmoid(torch.logit(scores) / 2)
    low, high = 0.1 + 0.2 * softened, 0.2 + 1.4 * (softened - 0.5)
    wanted = torch.where(softened < 0.5, low, high)
    torch.testing.assert_close(MAPS.apply(1, scores), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_ranking_is_lost(dtype: torch.dtype) -> None:
    scores = torch.linspace(0, 1, 20_001, dtype=dtype)
    mapped = MAPS.apply(1, scores)
    assert mapped.dtype == torch.float64
    assert bool((mapped.diff() > 0).all())
    assert mapped.min() == pytest.approx(0.1)
    assert mapped.max() == pytest.approx(0.9)


def test_a_scalar_and_nothing_are_scores_too() -> None:
    assert MAPS.apply(1, torch.tensor(0.5)).shape == ()
    assert MAPS.apply(1, torch.zeros(2, 0)).shape == (2, 0)


@pytest.mark.parametrize("stage", [-1, 2])
def test_unknown_stage_is_named(stage: int) -> None:
    with pytest.raises(InputError, match=f"stage is {stage}; allowed: 0 to 1"):
        MAPS.apply(stage, torch.zeros(1))


def test_json_round_trip_is_exact() -> None:
    maps = ScoreMaps(stages=(BENT, StageMap(temperature=1 / 3)))
    assert ScoreMaps.from_json(maps.to_json()) == maps


@pytest.mark.parametrize(
    "knots",
    [
        ((0.0, 0.0),),
        ((0.1, 0.0), (1.0, 1.0)),
        ((0.0, 0.0), (0.9, 1.0)),
        ((0.0, 0.2), (0.5, 0.2), (1.0, 1.0)),
        ((0.0, 0.0), (0.5, 0.2), (0.5, 0.3), (1.0, 1.0)),
        ((0.0, -0.1), (1.0, 1.0)),
        ((0.0, 0.0), (1.0, 1.1)),
        ((0.0, 0.0), (1.0, float("nan"))),
        ((0.0, 0.0), (1.0,)),
    ],
)
def test_knots_that_lose_a_ranking_are_refused(knots: Any) -> None:
    with pytest.raises(InputError, match="knots"):
        StageMap(knots=knots)


@pytest.mark.parametrize("temperature", [0, -1.0, float("inf"), float("nan"), "1", True])
def test_temperature_is_above_zero(temperature: Any) -> None:
    with pytest.raises(InputError, match="temperature"):
        StageMap(temperature=temperature)


def test_table_answers_in_both_directions() -> None:
    assert TABLE.threshold_for(0.2) == 0.1
    assert TABLE.threshold_for(0.21) == 0.4
    with pytest.raises(InputError, match=r"precision of 0\.7; the highest .* is 0\.600"):
        TABLE.threshold_for(0.7)
    scores = (0.0, 0.1, 0.11, 0.4, 0.7, 0.71, 1.0)
    wanted = (0.2, 0.2, 0.6, 0.6, 0.5, 0.5, 0.5)
    assert tuple(TABLE.expected_precision(score) for score in scores) == wanted


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_scores_of_results_are_numbers_too(kind: Any) -> None:
    assert TABLE.expected_precision(kind(0.5)) == TABLE.expected_precision(0.5)
    assert TABLE.threshold_for(kind(0.5)) == TABLE.threshold_for(0.5)
    with pytest.raises(InputError, match="score is"):
        TABLE.expected_precision(kind("nan"))
    with pytest.raises(InputError, match="score is"):
        TABLE.expected_precision(np.array([0.5]))


@pytest.mark.parametrize("bad", [0, 1.5, "0.9", True, float("nan"), None, 10**400])
def test_precision_that_cannot_be_meant(bad: Any) -> None:
    with pytest.raises(InputError, match="precision is"):
        TABLE.threshold_for(bad)
    if bad != 0:
        with pytest.raises(InputError, match="score is"):
            TABLE.expected_precision(bad)


@pytest.mark.parametrize(
    ("thresholds", "precision"),
    [((), ()), ((0.1,), (0.1, 0.2)), ((0.2, 0.1), (0.1, 0.2)), ((0.1,), (1.2,)), ((0.1,), ("x",))],
)
def test_broken_tables_are_refused(thresholds: Any, precision: Any) -> None:
    with pytest.raises(InputError):
        PrecisionTable(thresholds=thresholds, precision=precision)


def calibration() -> Calibration:
    return Calibration(
        maps={"names": MAPS, "everything": ScoreMaps.identity(2)},
        tables={"names": TABLE, "everything": TABLE},
        weights_sha256="ab",
        fitted_on={"images": 3},
    )


def test_file_round_trip() -> None:
    assert Calibration.from_json(calibration().to_json()) == calibration()


def _change(*keys: str | int, value: Any = None, drop: bool = False) -> str:
    """The file's text with one thing changed."""
    values = json.loads(calibration().to_json())
    at = values
    for key in keys[:-1]:
        at = at[key]
    if drop:
        del at[keys[-1]]
    else:
        at[keys[-1]] = value
    return json.dumps(values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ("[" * 100_000, "not valid JSON"),
        (_change("format", value=2), "format is 2"),
        (_change("format", drop=True), "'format' is missing"),
        (_change("modes", value=[]), "'modes' is of the wrong kind"),
        (_change("modes", "everything", drop=True), "'everything' is missing"),
        (_change("modes", "names", "stages", value=[]), "stages is empty"),
        (_change("modes", "names", "stages", 1, value=3), "stage 1: field 'temperature'"),
        (_change("modes", "names", "stages", 1, "temperature", value=0), "stage 1: temperature"),
        (_change("modes", "names", "stages", 1, "knots", value=[1, 2]), "stage 1: knots"),
        (_change("modes", "names", "stages", 1, "knots", value=[[0, 0], [1, None]]), "knots"),
        (_change("modes", "names", "stages", 1, "knots", 0, value=["a", "b"]), "knots"),
        (_change("modes", "names", "stages", 1, "temperature", value=10**400), "401 digits"),
        (_change("fitted_on", value={"loss": float("nan")}), "'fitted_on' holds a number that"),
        ('{"format": 1, "format": 1}', "'format' stands there twice"),
        (_change("modes", "names", "precision", "thresholds", value=[0.9]), "equally long"),
        (_change("weights_sha256", value=5), "wrong kind"),
    ],
)
def test_broken_files_are_told_in_one_line(text: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        Calibration.from_json(text, "m/calibration.json")
    message = str(error.value)
    assert message.startswith("m/calibration.json: ")
    assert says in message
    assert "\n" not in message


def test_a_calibration_belongs_to_its_model() -> None:
    calibration().check_fit(2, "ab", "f")
    with pytest.raises(InputError, match="maps of 2 stages, but the model has 5"):
        calibration().check_fit(5, "ab", "f")
    with pytest.raises(InputError, match="fitted on other weights"):
        calibration().check_fit(2, "cd", "f")


def test_unknown_mode() -> None:
    with pytest.raises(InputError, match="mode 'expressions' is unknown; allowed: names"):
        calibration().table("expressions")


def test_level_parts_of_a_map_keep_neighbouring_scores_apart() -> None:
    level = ScoreMaps(stages=(StageMap(knots=((0.0, 0.6), (1.0, 0.60001))),))
    scores = torch.linspace(0.5, 0.51, 1000)
    assert len(level.apply(0, scores).unique()) == len(scores.unique()) == 1000
