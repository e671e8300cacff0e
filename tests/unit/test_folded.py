"""Training forms of the backbone: the same numbers, sooner."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mobius_seg.backbone import Backbone
from mobius_seg.presets import get_preset
from mobius_seg.train import folded as folding
from mobius_seg.train.depthwise import depthwise_conv
from mobius_seg.train.folded import FoldedConv, FoldedNorm, fold_norms


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_gradients_are_those_of_float32(kernel: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(kernel + stride)
    x = torch.randn(3, 8, 14, 10, generator=generator)
    weight = torch.randn(8, 1, kernel, kernel, generator=generator)
    bias = torch.randn(8, generator=generator)
    parts = [part.bfloat16().float().requires_grad_() for part in (x, weight, bias)]
    padding = kernel // 2
    wanted = F.conv2d(*parts, stride, padding, 1, 8)
    grad = torch.randn(wanted.shape, generator=generator).bfloat16().float()
    wanted.backward(grad)
    own = [part.detach().bfloat16().requires_grad_() for part in parts]
    found = depthwise_conv(own[0], own[1], own[2], (stride, stride), (padding, padding))
    assert found.dtype is torch.bfloat16
    found.backward(grad.bfloat16())
    assert close(found.detach(), wanted.detach())
    for mine, reference in zip(own, parts, strict=True):
        assert mine.grad is not None
        assert reference.grad is not None
        assert close(mine.grad, reference.grad)


def close(found: torch.Tensor, wanted: torch.Tensor, most: float = 0.01) -> bool:
    return float((found.float() - wanted).norm() / wanted.norm()) < most


@pytest.fixture(scope="module", params=["mobius-test", "mobius-n", "mobius-p"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    made = Backbone(get_preset(request.param))
    generator = torch.Generator().manual_seed(1)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics that are not those of a new norm
            shape = module.num_features
            module.running_mean = torch.randn(shape, generator=generator) * 0.1
            module.running_var = torch.rand(shape, generator=generator) + 0.5
    made.freeze_norm = True
    return made.train()


def test_folding_changes_no_map_no_gradient_and_no_name(backbone: Backbone) -> None:
    folded = copy.deepcopy(backbone)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    assert fold_norms(folded) == norms
    folded = copy.deepcopy(folded)  # as the average of a run is made
    assert list(folded.state_dict()) == list(backbone.state_dict())
    assert [n for n, _ in folded.named_parameters()] == [n for n, _ in backbone.named_parameters()]
    picture = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    for was, now in zip(backbone(picture), folded(picture), strict=True):
        torch.testing.assert_close(now, was, rtol=1e-3, atol=1e-4 * float(was.detach().abs().max()))
    for network in (backbone, folded):
        network.zero_grad()
        sum(m.square().mean() for m in network(picture)).backward()  # type: ignore[union-attr]
    for (name, was), now in zip(backbone.named_parameters(), folded.parameters(), strict=True):
        assert was.grad is not None
        assert now.grad is not None
        error = float((was.grad - now.grad).norm())
        assert error < 0.01 * float(was.grad.norm()) + 1e-6, name


def test_bfloat16_takes_the_depthwise_path(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    folded = copy.deepcopy(backbone)
    fold_norms(folded)
    picture = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    wanted = backbone(picture)
    calls = []

    def counted(*parts: Any) -> torch.Tensor:
        calls.append(parts)
        return depthwise_conv(*parts)

    monkeypatch.setattr(folding, "depthwise_conv", counted)
    with torch.autocast("cpu", torch.bfloat16):
        found = folded(picture)
    depthwise = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(calls) == len(depthwise)
    for was, now in zip(wanted, found, strict=True):
        assert close(now.detach(), was.detach(), 0.06)
    sum(m.float().square().mean() for m in found).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in folded.parameters())


def test_a_backbone_that_cannot_be_tried_stays(backbone: Backbone) -> None:
    odd = copy.deepcopy(backbone)
    odd.body.register_forward_pre_hook(_refuse)
    assert fold_norms(odd) == 0
    assert odd.training
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in odd.modules())


def _refuse(_module: nn.Module, _inputs: object) -> None:
    raise RuntimeError("takes pictures of 224 pixels alone")


def test_a_copy_of_a_folded_pair_learns_its_own_norm(backbone: Backbone) -> None:
    folded = copy.deepcopy(backbone)
    fold_norms(folded)
    other = copy.deepcopy(folded)
    norm = next(m for m in other.modules() if isinstance(m, FoldedNorm))
    conv = next(m for m in other.modules() if isinstance(m, FoldedConv))
    assert conv._norm[0] is norm
    with torch.no_grad():
        norm.bias += 1
    picture = torch.rand(1, 3, 32, 32)
    assert not torch.equal(folded(picture)[0], other(picture)[0])


def test_norms_that_move_are_left_alone(backbone: Backbone) -> None:
    moving = copy.deepcopy(backbone)
    moving.freeze_norm = False
    assert fold_norms(moving) == 0
    assert any(isinstance(module, nn.BatchNorm2d) for module in moving.modules())


class _Crossed(nn.Module):
    """A convolution and a norm side by side that do not follow each other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean = torch.ones(3)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [F.relu(self.conv(self.norm(x)))] * 5


def test_a_norm_that_does_not_follow_stays(backbone: Backbone) -> None:
    crossed = copy.deepcopy(backbone)
    crossed.body = _Crossed()
    picture = torch.rand(1, 3, 64, 64)
    before = crossed.train()(picture)
    assert fold_norms(crossed) == 0
    assert isinstance(crossed.body.norm, nn.BatchNorm2d)
    assert torch.equal(before[0], crossed(picture)[0])
