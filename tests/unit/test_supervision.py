"""Images without masks: boxes and plain focal loss with u = 1, and nothing that needs a mask."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mobius_seg.calibration import confidence_loss
from mobius_seg.data.sample import Target
from mobius_seg.losses import Criterion, LossConfig
from mobius_seg.types import LayerOutput, ModelOutput, TextPrompt

SIDE = 32
BOX = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
PROMPT = TextPrompt(torch.eye(2, 8)[None])


def target(masks: bool) -> Target:
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[:, 8:24, 8:24] = True
    return Target(
        boxes_M4=BOX,
        masks_MHW=mask if masks else None,
        columns_MK=torch.tensor([[True, False]]),
        known_K=torch.tensor([True, True]),
        has_object=True,
    )


def layer(batch: int, quality: bool = False) -> LayerOutput:
    """Three queries, the first near the target: a box of IoU below one."""
    source = torch.Generator().manual_seed(1)
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1]])
    tensors = [
        torch.randn(1, 3, 2, generator=source),
        torch.randn(1, 3, generator=source),
        boxes[None],
        torch.randn(1, 3, 4, generator=source),
    ]
    leaves = [t.expand(batch, *t.shape[1:]).clone().requires_grad_() for t in tensors]
    score = torch.zeros(batch, 3, requires_grad=True) if quality else None
    return LayerOutput(*leaves, quality_logits_BQ=score)


def losses(given: LayerOutput, masks: list[bool], **changes: Any) -> dict[str, Tensor]:
    features = torch.randn(1, 4, SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(2))
    features = features.expand(len(masks), -1, -1, -1)
    output = ModelOutput([given], features, PROMPT.pooled_BKD)
    generator = torch.Generator().manual_seed(0)
    config = LossConfig(synonyms=False, **changes)
    return Criterion(config)(output, [target(m) for m in masks], PROMPT, generator)


@pytest.mark.parametrize("kind", ["mal", "varifocal", "focal"])
def test_boxes_alone_teach_plain_focal_loss_with_u_one(kind: Any) -> None:
    given = layer(1)
    parts = losses(given, [False], class_loss=kind)
    wanted = torch.zeros(1, 3, 3)
    wanted[0, 0, 0] = wanted[0, 0, 2] = 1.0  # its name, and the object column
    logits = torch.cat([given.logits_BQK, given.object_logits_BQ[..., None]], -1)
    prob = logits.sigmoid()
    weight = torch.where(wanted > 0, 0.25 * (1 - prob) ** 2, 0.75 * prob**2)
    plain = weight * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    assert parts["class"].item() == pytest.approx(plain.sum().item(), rel=1e-5)


def test_boxes_alone_teach_no_mask_and_still_the_box() -> None:
    given = layer(1)
    parts = losses(given, [False])
    assert parts["mask"].item() == parts["dice"].item() == parts["quality"].item() == 0.0
    assert parts["box"].item() > 0
    assert parts["giou"].item() > 0
    parts["loss"].backward()
    assert given.boxes_BQ4.grad is not None
    assert given.boxes_BQ4.grad[0, 0].any()
    assert given.mask_embed_BQM.grad is None or not given.mask_embed_BQM.grad.any()


def test_images_with_masks_keep_their_quality_beside_others() -> None:
    """In one batch each image learns as it does alone, at half the weight."""
    mixed, focal = layer(2), layer(1)
    parts = losses(mixed, [True, False])
    parts["class"].backward()
    losses(focal, [False])["class"].backward()
    assert mixed.logits_BQK.grad is not None
    assert focal.logits_BQK.grad is not None
    torch.testing.assert_close(mixed.logits_BQK.grad[1], focal.logits_BQK.grad[0] / 2)
    negative = mixed.logits_BQK[0, 1:].detach()  # varifocal: 0.75 p^2 times the probability
    prob = negative.sigmoid()
    torch.testing.assert_close(mixed.logits_BQK.grad[0, 1:], 0.75 * prob**3 / 2)
    assert 0 < parts["quality"].item() < 1  # of the image with masks


def test_the_uncertainty_head_learns_from_masks_alone() -> None:
    for masks in (True, False):
        given = layer(1, quality=True)
        losses(given, [masks])["loss"].backward()
        assert given.quality_logits_BQ is not None
        gradient = given.quality_logits_BQ.grad
        assert (gradient is not None and bool(gradient.any())) == masks


def test_plain_focal_does_not_read_the_quality() -> None:
    logits, positive = torch.randn(4), torch.tensor([True, False, True, False])
    first = confidence_loss(logits, torch.zeros(4), positive, "focal")
    assert torch.equal(first, confidence_loss(logits, torch.ones(4), positive, "focal"))
