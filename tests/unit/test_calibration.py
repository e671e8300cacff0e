"""One confidence per query."""

import pytest
import torch

from mobius_seg.calibration import confidence, name_scores


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


NAMES, OBJECTS = logits(2, 5, 4), logits(2, 5, seed=1)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_score_is_a_geometric_mean(alpha: float) -> None:
    wanted = NAMES.sigmoid() ** (1 - alpha) * OBJECTS.sigmoid()[..., None] ** alpha
    torch.testing.assert_close(name_scores(NAMES, OBJECTS, None, alpha), wanted)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_confidence_is_the_best_score(alpha: float, masked: bool) -> None:
    mask = torch.tensor([[True, False, True, True], [False, True, False, False]])
    columns = mask if masked else None
    best = name_scores(NAMES, OBJECTS, columns, alpha).amax(-1)
    torch.testing.assert_close(confidence(NAMES, OBJECTS, columns, alpha), best)
    if masked:
        assert not name_scores(NAMES, OBJECTS, mask, alpha)[0, :, 1].any()


def test_without_a_name_the_object_decides() -> None:
    wanted = OBJECTS.sigmoid()
    torch.testing.assert_close(confidence(NAMES[..., :0], OBJECTS, None, 0.5), wanted)
    some = torch.tensor([[False] * 4, [True] * 4])
    mixed = confidence(NAMES, OBJECTS, some, 0.5)
    torch.testing.assert_close(mixed[0], wanted[0])
    torch.testing.assert_close(mixed[1], confidence(NAMES[1:], OBJECTS[1:], None, 0.5)[0])
    assert name_scores(NAMES[..., :0], OBJECTS, None, 0.5).shape == (2, 5, 0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_extreme_logits_give_probabilities(alpha: float) -> None:
    names = torch.tensor([[[-500.0, 500.0], [-500.0, -500.0], [80.0, 0.0]]])
    objects = torch.tensor([[500.0, -500.0, 0.0]])
    for mask in (None, torch.tensor([[True, False]]), torch.tensor([[False, False]])):
        for value in (
            name_scores(names, objects, mask, alpha),
            confidence(names, objects, mask, alpha),
        ):
            assert torch.isfinite(value).all()
            assert bool(((value >= 0) & (value <= 1)).all())
