"""Naming objects from the name map under their masks."""

from dataclasses import replace

import torch
from torch import Tensor

from mobius_seg.calibration import synonym_weight
from mobius_seg.data.sample import Target
from mobius_seg.regions import region_loss
from mobius_seg.targets import PaddedTargets, pad_targets
from mobius_seg.types import RegionOutput, TextPrompt

SIDE, WIDTH = 64, 8
CELLS = SIDE // 16


def scene(rows: list[int] | None) -> PaddedTargets:
    """Two squares, in the top left and the bottom right quarter."""
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, :32, :32] = masks[1, 32:, 32:] = True
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]])
    target = Target(
        boxes_M4=boxes,
        masks_MHW=masks,
        columns_MK=torch.zeros(2, 0, dtype=torch.bool),
        known_K=torch.zeros(0, dtype=torch.bool),
        has_object=True,
        rows_M=None if rows is None else torch.tensor(rows),
    )
    return pad_targets([target], TextPrompt.everything(4), (SIDE, SIDE), torch.device("cpu"))


def regions(names_Chw: Tensor, scale: float = 10.0) -> RegionOutput:
    return RegionOutput(names_Chw[None], torch.eye(WIDTH)[:4], torch.tensor(scale))


def halves(first: int, second: int, cells: int = CELLS) -> Tensor:
    """Every cell of the upper half points at one name, of the lower half at another."""
    names = torch.zeros(WIDTH, cells, cells)
    names[first, : cells // 2] = 1
    names[second, cells // 2 :] = 1
    return names


def prompt(vectors_VD: Tensor | None = None) -> TextPrompt:
    vectors = torch.eye(4) if vectors_VD is None else vectors_VD
    return replace(TextPrompt.everything(4), vocabulary_VD=vectors)


def test_the_right_name_under_the_mask_costs_little() -> None:
    right = region_loss(regions(halves(2, 1)), scene([2, 1]), prompt())
    wrong = region_loss(regions(halves(1, 2)), scene([2, 1]), prompt())
    # cosine 1 and scale 10 against three columns at 0, and the other way round; two objects
    by_hand = 2 * torch.log(1 + 3 * torch.tensor(-10.0).exp())
    torch.testing.assert_close(right, by_hand, rtol=1e-3, atol=1e-6)
    assert wrong > 19.9


def test_masks_are_read_at_the_stride_of_the_map() -> None:
    fine = region_loss(regions(halves(2, 1)), scene([2, 1]), prompt())
    coarse = region_loss(regions(halves(2, 1, SIDE // 32)), scene([2, 1]), prompt())
    torch.testing.assert_close(coarse, fine)


def test_the_pull_is_the_distance_to_the_true_name() -> None:
    """The upper square shows name 2 as it should, the lower one name 1 in place of name 3."""
    apart = region_loss(regions(halves(2, 1)), scene([2, 3]), prompt())
    pulled = region_loss(regions(halves(2, 1)), scene([2, 3]), prompt(), pull=4.0)
    torch.testing.assert_close(pulled - apart, torch.tensor(4.0))  # cosines 1 and 0


def test_the_pull_moves_the_picture_and_not_the_text() -> None:
    names, text = halves(1, 1).requires_grad_(), torch.eye(WIDTH)[:4].requires_grad_()
    shown = RegionOutput(names[None], text, torch.tensor(0.0))  # scale 0: only the pull is left
    region_loss(shown, scene([2, 3]), prompt(), pull=1.0).backward()
    assert names.grad is not None
    assert float(names.grad.abs().sum()) > 0
    assert text.grad is None or not text.grad.any()


def test_only_cells_under_the_mask_learn() -> None:
    names = halves(0, 0).requires_grad_()
    region_loss(regions(names), scene([2, 1]), prompt()).backward()
    assert names.grad is not None
    moved = names.grad.abs().sum(0) > 0
    assert bool(moved[:2, :2].all())
    assert bool(moved[2:, 2:].all())
    assert not moved[:2, 2:].any()


def test_nothing_named_costs_nothing() -> None:
    names = halves(0, 0).requires_grad_()
    loss = region_loss(regions(names), scene(None), prompt())
    assert float(loss.detach()) == 0.0
    loss.backward()  # the term stays part of the graph


def test_synonyms_do_not_compete() -> None:
    vectors = torch.eye(4)
    vectors[1] = vectors[2]
    apart = region_loss(regions(halves(1, 1)), scene([2, 2]), prompt(vectors), synonyms=False)
    same = region_loss(regions(halves(1, 1)), scene([2, 2]), prompt(vectors))
    assert same < apart - 10


def test_synonym_weight_starts_at_four_fifths() -> None:
    cosine = torch.tensor([-1.0, 0.2, 0.8, 0.9, 1.0])
    expected = torch.tensor([1.0, 1.0, 1.0, 0.5, 0.0])
    torch.testing.assert_close(synonym_weight(cosine), expected, rtol=1e-5, atol=1e-6)
