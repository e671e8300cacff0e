"""Operating points belong to the score maps and the prompts that they were tuned with."""

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.models import HashEncoder, lively_network

from mobius_seg.calibration_file import Calibration, PrecisionTable
from mobius_seg.checkpoint import (
    load_operating_points,
    save_calibration,
    save_model,
    weights_digest,
)
from mobius_seg.errors import InputError
from mobius_seg.operating_points import OperatingPoint, OperatingPoints
from mobius_seg.posthoc import ScoreMaps, StageMap
from mobius_seg.predictor import Predictor
from mobius_seg.pruning import PruningPolicy

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(lively_network(), tmp_path / "m", float16=False)
    return tmp_path / "m"


def calibration(folder: Path, high: float) -> Calibration:
    """Scores shrunk to 0..high."""
    maps = ScoreMaps(stages=(StageMap(knots=((0.0, 0.0), (1.0, high))),) * 3)
    table = PrecisionTable(thresholds=(0.1,), precision=(0.5,))
    return Calibration(
        maps={"names": maps, "everything": maps},
        tables={"names": table, "everything": table},
        weights_sha256=weights_digest(folder),
        fitted_on={},
    )


def points(floor: float, digest: str | None = None) -> OperatingPoints:
    policy = PruningPolicy(thresholds=(0.0, 0.2), floors=((-1.0, -1.0), (floor, floor + 0.02)))
    found = {"full": OperatingPoint(PruningPolicy()), "balanced": OperatingPoint(policy)}
    return OperatingPoints(found, {"calibration_sha256": digest})


def test_points_go_with_the_maps_they_were_tuned_with(folder: Path) -> None:
    first, second = calibration(folder, 0.3), calibration(folder, 0.6)
    path = points(0.5).save(folder)
    assert json.loads(path.read_text())["conditions"]["weights_sha256"] == weights_digest(folder)
    load_operating_points(folder)
    save_calibration(first, folder)
    assert not path.exists()  # learned on raw scores
    points(0.15, first.digest()).save(folder)
    save_calibration(first, folder)  # the very same maps
    assert load_operating_points(folder).conditions["calibration_sha256"] == first.digest()
    (folder / "calibration.json").write_text(second.to_json())
    with pytest.raises(InputError, match=r"operating_points\.json: was tuned with other score ma"):
        load_operating_points(folder)
    (folder / "calibration.json").unlink()
    with pytest.raises(InputError, match="other score maps"):
        load_operating_points(folder)
    points(0.5).save(folder)
    other = json.loads(path.read_text())
    other["conditions"]["weights_sha256"] = "0"
    path.write_text(json.dumps(other))
    with pytest.raises(InputError, match="tuned with other weights"):
        load_operating_points(folder)


def test_maps_and_points_of_another_network_are_refused(folder: Path) -> None:
    deep = ScoreMaps.identity(5)
    maps = dataclasses.replace(calibration(folder, 0.3), maps={"names": deep, "everything": deep})
    with pytest.raises(InputError, match="calibration: mode 'names' has maps of 5 stages, but the"):
        Predictor(lively_network(), text_encoder=HashEncoder(), calibration=maps)
    wide = {
        "full": OperatingPoint(PruningPolicy()),
        "fast": OperatingPoint(PruningPolicy(keep=(50,))),
    }
    with pytest.raises(InputError, match="operating_points: keep of point 'fast' says 50, but"):
        Predictor(
            lively_network(), text_encoder=HashEncoder(), operating_points=OperatingPoints(wide)
        )


def test_pruning_reads_mapped_scores_whatever_is_returned(
    folder: Path, photo: NDArray[np.uint8]
) -> None:
    maps = calibration(folder, 0.3)
    raw = Predictor(lively_network(), text_encoder=HashEncoder(), device="cpu")
    _, first, _ = raw.stream(photo, names=["cup"], threshold=0.0)
    middle = float(np.median(first.scores))
    model = Predictor(
        lively_network(),
        text_encoder=HashEncoder(),
        device="cpu",
        calibration=maps,
        operating_points=points(middle * 0.3),
    )

    def queries(threshold: float, calibrated: bool) -> tuple[int, ...]:
        found = model.predict(
            photo,
            names=["cup"],
            threshold=threshold,
            calibrated=calibrated,
            operating_point="balanced",
        )
        assert found.receipt is not None
        return found.receipt.queries

    mapped = queries(0.0, True)
    assert 1 < mapped[2] < mapped[1]
    assert queries(0.0, False) == mapped
    # A raw threshold of 2/3 is a mapped one of 0.2.
    assert queries(0.2, True)[2] < mapped[2]
    assert queries(0.2 / 0.3, False) == queries(0.2, True)


def test_points_tuned_with_names_prune_nothing_without(
    folder: Path, photo: NDArray[np.uint8]
) -> None:
    own = points(0.99)
    balanced = own.points["balanced"].policy
    capped = dataclasses.replace(balanced, keep=(12, 6))
    found = {**own.points, "balanced": OperatingPoint(capped)}
    model = Predictor(
        lively_network(),
        text_encoder=HashEncoder(),
        device="cpu",
        operating_points=OperatingPoints(found),
    )
    with pytest.warns(UserWarning, match="'balanced' is tuned for prompts with names"):
        everything = model.predict(photo, threshold=0.0, operating_point="balanced")
    assert everything.receipt is not None
    assert everything.receipt.queries == (12, 12, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = model.predict(photo, names=["cup"], threshold=0.0, operating_point="balanced")
        own_policy = model.predict(photo, threshold=0.0, operating_point=capped)
        model.predict([photo], names=[[]], operating_point="balanced")
    for result in (named, own_policy):
        assert result.receipt is not None
        assert result.receipt.queries[2] < 6
