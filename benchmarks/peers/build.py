"""Make ONNX files of other networks, as peers of ``mobius-seg bench``.

Weights are random: what a fixed graph costs does not depend on them. Nothing here is imported by
the package or by the benchmark, which read the files alone. Licences of the packages
that build them: ultralytics AGPL-3.0 (code and the files it makes), rfdetr and transformers
Apache-2.0. Install them (the extra ``peers``) into an environment of their own.

One file a peer and size, named NAME_HxW.onnx, and beside it NAME_HxW.json with its origin.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mobius_seg.bench.contenders import read_size
from mobius_seg.errors import InputError
from mobius_seg.files import atomic_path, write_text
from mobius_seg.machine import versions
from mobius_seg.terminal import print_error
from mobius_seg.text_cache import default_cache_dir
from mobius_seg.torchvision_shim import ensure_torchvision_ops

NAMES = 80
_RFDETR_BLOCK = 12  # patch times windows of its backbone
Size = tuple[int, int]


def main() -> int:
    """Build what was asked for; what cannot be built is said in one line, exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", nargs="+", choices=PEERS, metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--size", default="640x640", help="height and width (default: 640x640)")
    parser.add_argument("--out", type=Path, default=default_cache_dir() / "peers")
    options = parser.parse_args()
    ensure_torchvision_ops()
    torch.manual_seed(0)
    failed = 0
    for name in options.peers:
        try:
            size = read_size(options.size, "--size")
            print(f"wrote {build(name, size, options.out)}")
        except Exception as error:  # noqa: BLE001
            failed += 1
            lines = str(error).strip().splitlines() or [""]
            print_error(f"{name}: {type(error).__name__}: {lines[0][:300]}")
    return 2 if failed else 0


def build(name: str, size: Size, folder: Path) -> Path:
    """Write one peer's files and return the path of the graph.

    Raises:
        InputError: the network does not take this size.
    """
    make, package, licence = PEERS[name]
    path = folder / f"{name}_{size[0]}x{size[1]}.onnx"
    with atomic_path(path) as temporary:
        facts = make(name, size, temporary)
    about = {
        "peer": name,
        "package": package,
        "versions": versions((package, "torch", "onnx")),
        "licence": licence,
        "weights": "random",
        "size": list(size),
        **facts,
    }
    write_text(path.with_suffix(".json"), json.dumps(about, indent=2) + "\n")
    return path


def _yolo(name: str, size: Size, path: Path) -> dict[str, Any]:
    """YOLO: the graph ends at boxes, scores, mask coefficients and prototypes."""
    from ultralytics import YOLO

    _export_ultralytics(YOLO(f"{name}.yaml", task="segment"), size, path)
    return {"ends": "detections and mask prototypes; masks are not multiplied out"}


def _yoloe(name: str, size: Size, path: Path) -> dict[str, Any]:
    """YOLOE with as many names, whose text vectors are drawn and folded into the head."""
    from ultralytics import YOLOE

    model = YOLOE(f"{name}.yaml", task="segment")
    vectors = torch.nn.functional.normalize(torch.randn(1, NAMES, 512), dim=-1)
    model.set_classes([f"name {i}" for i in range(NAMES)], vectors)
    _export_ultralytics(model, size, path)
    return {"names": NAMES, "ends": "detections and mask prototypes; names are constants"}


def _export_ultralytics(model: Any, size: Size, path: Path) -> None:
    """Its own exporter writes beside its checkpoint: let that be a folder that goes."""
    with tempfile.TemporaryDirectory() as folder:
        model.model.yaml_file = str(Path(folder) / "peer.yaml")
        model.model.pt_path = str(Path(folder) / "peer.pt")
        made = model.export(format="onnx", imgsz=list(size), simplify=False, verbose=False)
        Path(made).replace(path)


def _rfdetr(_name: str, size: Size, path: Path) -> dict[str, Any]:
    """RF-DETR-Seg nano."""
    from rfdetr import RFDETRSegNano

    if size[0] != size[1] or size[0] % _RFDETR_BLOCK:
        raise InputError(
            f"takes squares with sides that are multiples of {_RFDETR_BLOCK}; its own is 312"
        )
    model = RFDETRSegNano(pretrain_weights=None, resolution=size[0], device="cpu")
    network = model.model.model.cpu().eval()
    network.export()
    _to_onnx(network, size, path)
    return {"ends": "boxes, logits and mask logits of all queries"}


def _mask2former(_name: str, size: Size, path: Path) -> dict[str, Any]:
    """Mask2Former with Swin-T, 100 queries, 80 classes, as transformers builds it."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    stages = [f"stage{i}" for i in (1, 2, 3, 4)]
    backbone = SwinConfig(
        embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7,
        image_size=224, out_features=stages,
    )  # fmt: skip
    config = Mask2FormerConfig(backbone_config=backbone, num_labels=NAMES, num_queries=100)
    network = Mask2FormerForUniversalSegmentation(config).eval()
    _to_onnx(_Mask2FormerOutputs(network), size, path)
    return {"names": NAMES, "queries": 100, "ends": "class and mask logits of all queries"}


class _Mask2FormerOutputs(torch.nn.Module):
    """The logits of the last layer as a tuple."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[1, 3, H, W] -> class logits and mask logits."""
        found = self.network(pixel_values=image)
        return found.class_queries_logits, found.masks_queries_logits


def _to_onnx(network: torch.nn.Module, size: Size, path: Path) -> None:
    """One file, opset 17 or what the exporter of torch writes."""
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        torch.onnx.export(
            network, (image,), str(path), dynamo=False, opset_version=17, input_names=["image"]
        )


Maker = Callable[[str, Size, Path], dict[str, Any]]
PEERS: dict[str, tuple[Maker, str, str]] = {
    "yolo26n-seg": (_yolo, "ultralytics", "AGPL-3.0"),
    "yolo11n-seg": (_yolo, "ultralytics", "AGPL-3.0"),
    "yoloe-11s-seg": (_yoloe, "ultralytics", "AGPL-3.0"),
    "rfdetr-seg-nano": (_rfdetr, "rfdetr", "Apache-2.0"),
    "mask2former-swin-tiny": (_mask2former, "transformers", "Apache-2.0"),
}

if __name__ == "__main__":
    sys.exit(main())
