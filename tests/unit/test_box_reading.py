"""What a decoder layer reads on a grid over its queries' boxes, and how boxes move."""

from dataclasses import replace

import pytest
import torch

from mobius_seg.box_reading import read_grid
from mobius_seg.decoder import Decoder
from mobius_seg.layers import inverse_sigmoid, move_boxes
from mobius_seg.presets import get_preset


def ramp(height: int, width: int) -> torch.Tensor:
    """Two channels that say where they are: x and y in 0..1."""
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    return torch.stack([x, y])[None]


@pytest.mark.parametrize("side", [0.02, 0.2, 0.4])
def test_a_cell_holds_what_lies_under_it(side: float) -> None:
    boxes = torch.tensor([[[0.5, 0.4, side, side / 2], [0.45, 0.55, side / 2, side]]])
    cells = 4
    read = read_grid(ramp(40, 60), boxes, cells).reshape(1, 2, cells, 2, cells)
    place = (torch.arange(cells) + 0.5) / cells - 0.5
    for query in range(2):
        x, y, w, h = boxes[0, query].tolist()
        wanted_x = (x + 1.5 * w * place)[None].expand(cells, cells)
        wanted_y = (y + 1.5 * h * place)[:, None].expand(cells, cells)
        # The weights of a window wider than a line sum to one within two hundredths.
        torch.testing.assert_close(read[0, query, :, 0], wanted_x, atol=1e-2, rtol=0)
        torch.testing.assert_close(read[0, query, :, 1], wanted_y, atol=1e-2, rtol=0)


def test_a_large_box_is_averaged_and_outside_is_nothing() -> None:
    noise = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = torch.tensor([[[0.5, 0.5, 1 / 1.5, 1 / 1.5]]])
    assert read_grid(noise, whole, 2).abs().max() < 0.1  # picked from, cells would be about 1
    outside = torch.tensor([[[2.0, 2.0, 0.1, 0.1]]])
    assert read_grid(noise, outside, 3).abs().max() == 0


def test_each_picture_is_read_under_its_own_boxes() -> None:
    maps = torch.cat([ramp(16, 16), ramp(16, 16).flip(-1)])
    boxes = torch.tensor([[[0.3, 0.5, 0.1, 0.1]], [[0.6, 0.5, 0.1, 0.1]]])
    both = read_grid(maps, boxes, 3)
    for image in range(2):
        one = slice(image, image + 1)
        torch.testing.assert_close(both[one], read_grid(maps[one], boxes[one], 3))


def test_a_step_of_nothing_leaves_the_box() -> None:
    boxes = torch.tensor([[0.5, 0.4, 0.2, 0.3], [0.1, 0.9, 0.05, 0.1]])
    for form in ("logit", "relative"):
        torch.testing.assert_close(move_boxes(boxes, torch.zeros(2, 4), form), boxes)


def test_a_relative_step_means_the_same_everywhere() -> None:
    step = torch.tensor([0.5, -0.25, 0.0, torch.tensor(2.0).log()])
    here = move_boxes(torch.tensor([0.5, 0.4, 0.2, 0.3]), step, "relative")
    torch.testing.assert_close(here, torch.tensor([0.6, 0.325, 0.2, 0.6]))
    there = move_boxes(torch.tensor([0.1, 0.7, 0.02, 0.03]), step, "relative")
    torch.testing.assert_close(there, torch.tensor([0.11, 0.6925, 0.02, 0.06]))


def test_a_logit_step_is_added_to_the_logits() -> None:
    boxes, step = torch.tensor([0.5, 0.4, 0.2, 0.3]), torch.tensor([0.5, -1.0, 0.2, 0.0])
    moved = move_boxes(boxes, step, "logit")
    torch.testing.assert_close(inverse_sigmoid(moved), inverse_sigmoid(boxes) + step)


def test_no_step_makes_a_box_infinite_or_empty() -> None:
    moved = move_boxes(torch.tensor([0.5, 0.5, 0.1, 0.1]), torch.full((4,), 1e6), "relative")
    assert torch.isfinite(moved).all()
    assert (move_boxes(torch.full((4,), 0.1), torch.full((4,), -1e6), "relative")[2:] > 0).all()


def test_a_layer_sees_what_its_box_covers() -> None:
    """A change of the fine map outside all (enlarged) boxes changes nothing, one inside does."""
    config = replace(get_preset("mobius-test"), box_reading=4, memory_strides=(16,))
    torch.manual_seed(0)
    decoder = Decoder(config).eval()
    maps = {s: torch.randn(1, config.width, 64 // s, 64 // s) for s in (8, 16, 32)}
    boxes = torch.tensor([[[0.25, 0.25, 0.2, 0.2]]])
    query = torch.randn(1, 1, config.width)
    text, thing = torch.randn(1, 3, config.width), torch.randn(config.width)

    def run(levels: dict[int, torch.Tensor]) -> torch.Tensor:
        memory = decoder.memory_for(0, levels, None)
        with torch.no_grad():
            return decoder.advance(0, query, boxes, memory, None, text, thing)[0]

    plain = run(maps)
    for cell, same in (((7, 7), True), ((2, 2), False)):
        changed = maps[8].clone()
        changed[..., cell[0], cell[1]] += 10
        moved = run({**maps, 8: changed})
        assert torch.equal(moved, plain) is same


def test_what_leaves_the_picture_stops_at_its_border_and_still_learns() -> None:
    boxes = torch.tensor([[0.9, 0.1, 0.5, 0.5]])
    step = torch.tensor([[1.0, -1.0, 2.0, -0.5]], requires_grad=True)
    moved = move_boxes(boxes, step, "relative")
    assert moved[0, :3].tolist() == [1.0, 0.0, 1.0]
    assert torch.equal(moved, move_boxes(boxes, step.detach(), "relative"))
    moved.sum().backward()
    assert step.grad is not None
    assert (step.grad > 0).all()
