"""From logits to masks and boxes in the original picture's size."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch.nn import functional

from mobius_seg import postprocess
from mobius_seg.postprocess import (
    boxes_to_original,
    encode_masks,
    select,
    without_duplicates,
)
from mobius_seg.preprocess import Frame, make_frame, pad_and_stack, resize
from mobius_seg.types import LayerOutput, ModelOutput


def _output(
    logits_QK: torch.Tensor, objects_Q: torch.Tensor, masks_Qhw: torch.Tensor | None = None
) -> ModelOutput:
    """An output whose mask logits are exactly ``masks_Qhw``."""
    queries = len(objects_Q)
    features = torch.zeros(queries, 2, 2) if masks_Qhw is None else masks_Qhw
    layer = LayerOutput(
        logits_QK[None], objects_Q[None], torch.full((1, queries, 4), 0.5), torch.eye(queries)[None]
    )
    return ModelOutput([layer], features[None], torch.zeros(1, logits_QK.shape[1], 4))


def _mask_output(masks_Qhw: torch.Tensor, boxes_Q4: torch.Tensor) -> ModelOutput:
    """The same with boxes (cxcywh)."""
    output = _output(torch.zeros(len(masks_Qhw), 1), torch.zeros(len(masks_Qhw)), masks_Qhw)
    output.layers[0] = replace(output.layers[0], boxes_BQ4=boxes_Q4[None])
    return output


def _masks(masks_Qhw: torch.Tensor, frame: Frame) -> list[dict[str, Any] | None]:
    count = len(masks_Qhw)
    output = _output(torch.zeros(count, 1), torch.zeros(count), masks_Qhw)
    return encode_masks(output, 0, torch.arange(count), frame)


def _reference(logits_hw: torch.Tensor, frame: Frame) -> NDArray[np.float32]:
    """Every pixel's logit, by grid_sample over the whole picture in double precision."""
    height, width = frame.original
    y = (torch.arange(height).double() + 0.5) / height * frame.resized[0] / frame.padded[0] * 2 - 1
    x = (torch.arange(width).double() + 0.5) / width * frame.resized[1] / frame.padded[1] * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
    sampled = functional.grid_sample(
        logits_hw[None, None].double(), grid[None], padding_mode="border", align_corners=False
    )
    return np.asarray(sampled[0, 0])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 90), st.integers(1, 90), st.sampled_from([32, 64, 100]), st.integers(0, 2**31)
)
def test_masks_equal_sampling_every_pixel(height: int, width: int, size: int, seed: int) -> None:
    frame = make_frame(height, width, size)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, frame.padded[0] // 4, frame.padded[1] // 4, generator=generator)
    for rle, logits_hw in zip(_masks(logits, frame), logits, strict=True):
        reference = _reference(logits_hw, frame)
        mask = np.zeros((height, width)) if rle is None else coco_mask.decode(rle)
        assert mask.shape == (height, width)
        wrong = (mask > 0) != (reference > 0)
        assert np.abs(reference[wrong]).max(initial=0) < 1e-5
        if rle is not None:
            canonical = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            assert rle["counts"] == canonical["counts"].decode()


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = make_frame(70, 50, 64)
    logits = torch.randn(5, 16, 16, generator=torch.Generator().manual_seed(1))
    whole = _masks(logits, frame)
    monkeypatch.setattr(postprocess, "_STRIP_VALUES", 1)
    monkeypatch.setattr(postprocess, "_CHUNK_VALUES", 1)
    assert _masks(logits, frame) == whole


def test_full_and_empty_masks() -> None:
    frame = make_frame(30, 20, 64)
    full = torch.ones(16, 16)
    padding = -full
    padding[:, 14:] = 5.0  # positive only where the input is padded
    rles = _masks(torch.stack([full, -full, padding]), frame)
    assert rles[0] is not None
    assert coco_mask.area(rles[0]) == 600
    assert rles[1:] == [None, None]
    assert _masks(torch.full((1, 16, 16), torch.nan), frame) == [None]


def test_select_takes_the_best_name_once() -> None:
    logits = torch.tensor([[0.0, 2.0], [3.0, 1.0], [-9.0, -9.0]])
    chosen = select(_output(logits, torch.full((3,), 9.0)), 0, 2, 0.0, 0.3, 100)
    assert chosen.queries_N.tolist() == [1, 0]
    assert chosen.columns_N.tolist() == [0, 1]
    assert torch.allclose(chosen.scores_N, torch.sigmoid(torch.tensor([3.0, 2.0])))


def test_select_takes_several_names() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 1.5, -9.0], [-9.0, -9.0, -9.0]])
    output = _output(logits, torch.full((3,), 9.0))
    chosen = select(output, 0, 3, 0.0, 0.3, 100, names_each=2)
    assert chosen.queries_N.tolist() == [1, 0, 1, 0]
    assert chosen.columns_N.tolist() == [0, 1, 1, 2]
    assert torch.allclose(chosen.scores_N, torch.sigmoid(torch.tensor([3.0, 2.0, 1.5, 1.0])))
    assert chosen.shown().tolist() == [1, 0]
    # the limit counts instances, each with its names
    one = select(output, 0, 3, 0.0, 0.3, 1, names_each=9)
    assert one.queries_N.tolist() == [1, 1]
    assert select(output, 0, 0, 0.0, 0.3, 2, names_each=9).columns_N.tolist() == [0, 0]


def test_masks_end_at_their_boxes() -> None:
    """Two blobs of one query: what lies outside of its enlarged box goes."""
    frame = make_frame(64, 64, 64)
    logits = torch.full((1, 16, 16), -5.0)
    logits[0, 2:6, 2:6] = logits[0, 10:14, 10:14] = 5.0
    output = _mask_output(logits, torch.tensor([[0.25, 0.25, 0.25, 0.25]]))
    whole, cropped = (
        encode_masks(output, 0, torch.arange(1), frame, margin=margin)[0] for margin in (0.0, 1.25)
    )
    assert whole is not None
    assert cropped is not None
    assert coco_mask.area(whole) == pytest.approx(2 * coco_mask.area(cropped), rel=0.1)
    assert coco_mask.toBbox(cropped).tolist() == pytest.approx([8, 8, 16, 16], abs=1)
    far = _mask_output(logits, torch.tensor([[0.9, 0.1, 0.01, 0.01]]))
    assert encode_masks(far, 0, torch.arange(1), frame, margin=1.25) == [None]


def test_duplicates_go() -> None:
    def rle(left: int, right: int) -> dict[str, Any]:
        mask = np.zeros((10, 20), np.uint8)
        mask[:, left:right] = 1
        found = coco_mask.encode(np.asfortranarray(mask))
        return {"size": [10, 20], "counts": found["counts"].decode()}

    # best first; the third overlaps the second by 0.9, which itself goes with the first (0.8)
    masks = [rle(0, 10), rle(0, 8), rle(0, 9), None, rle(12, 20)]
    assert without_duplicates(masks, 1.0) == [True, True, True, False, True]
    assert without_duplicates(masks, 0.85) == [True, True, False, False, True]
    assert without_duplicates(masks, 0.8) == [True, False, False, False, True]
    # what is gone hides nothing: 0-4 overlaps 0-8 by half but the first by 0.4 only
    assert without_duplicates([rle(0, 10), rle(0, 8), rle(0, 4)], 0.5) == [True, False, True]
    assert without_duplicates([], 0.5) == []


def test_select_limits() -> None:
    output = _output(torch.zeros(3, 1), torch.zeros(3))
    assert select(output, 0, 1, 0.5, 0.0, 2).queries_N.tolist() == [0, 1]
    assert len(select(output, 0, 1, 0.5, 0.500001, 100).queries_N) == 0
    assert len(select(output, 0, 1, 0.5, 0.5, 100).queries_N) == 3  # at least the threshold
    assert len(select(output, 0, 0, 0.5, 0.5, 100).queries_N) == 3  # without names
    nan = _output(torch.full((3, 1), torch.nan), torch.zeros(3))
    assert len(select(nan, 0, 1, 0.5, 0.0, 100).queries_N) == 0


def test_select_ignores_padded_columns() -> None:
    logits = torch.tensor([[0.0, 9.0]])
    chosen = select(_output(logits, torch.zeros(1)), 0, 1, 0.0, 0.0, 100)
    assert chosen.columns_N.tolist() == [0]


def test_boxes() -> None:
    frame = Frame(original=(300, 600), resized=(32, 64), padded=(32, 64))
    boxes = torch.tensor([[0.5, 0.5, 0.5, 1.0], [0.0, 0.0, 0.5, 0.5], [2.0, 2.0, 0.1, 0.1]])
    found = boxes_to_original(boxes, frame)
    assert found.tolist() == [[150, 0, 450, 300], [0, 0, 150, 75], [600, 300, 600, 300]]
    padded = Frame(original=(100, 100), resized=(32, 32), padded=(64, 64))
    assert boxes_to_original(boxes[:1], padded)[0].tolist() == [50, 0, 100, 100]
    assert boxes_to_original(boxes[:0], padded).shape == (0, 4)


@pytest.mark.parametrize(
    ("height", "width", "resized", "padded"),
    [
        (480, 640, (336, 448), (352, 448)),
        (1, 500, (1, 448), (32, 448)),
        (5000, 1, (448, 1), (448, 32)),
        (1, 1, (448, 448), (448, 448)),
        (3000, 4000, (336, 448), (352, 448)),
    ],
)
def test_frame(height: int, width: int, resized: tuple[int, int], padded: tuple[int, int]) -> None:
    frame = make_frame(height, width, 448)
    assert (frame.resized, frame.padded) == (resized, padded)


def test_padding_is_grey_at_the_bottom_and_the_right() -> None:
    image = np.full((10, 20, 3), 255, np.uint8)
    frame = make_frame(10, 20, 40)
    batch = pad_and_stack([resize(image, frame)] * 2, frame)
    assert batch.shape == (2, 3, 32, 64)
    assert (batch[:, :, :20, :40] == 1).all()
    assert torch.allclose(batch[:, :, 20:], torch.tensor(114 / 255))
    assert torch.allclose(batch[:, :, :, 40:], torch.tensor(114 / 255))
