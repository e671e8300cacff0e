"""Graphs of fixed shapes: rows of zeros are no names, and what such a format refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.models import HashEncoder, lively_network

from mobius_seg.errors import InputError
from mobius_seg.export.graph import ExportGraph
from mobius_seg.export.request import ExportRequest, check_static
from mobius_seg.export.session import one_by_one, pad_names
from mobius_seg.presets import PRESETS, get_preset
from mobius_seg.pruning import PruningPolicy


@pytest.mark.parametrize("count", [1, 3, 8])
def test_rows_of_zeros_are_no_names(count: int) -> None:
    network, policy = lively_network(), PruningPolicy.static((10, 5), 2)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    text_KD = HashEncoder().encode([f"name {i}" for i in range(count)]).pooled_KD
    wanted = ExportGraph(network, policy, None)(image, text_KD)
    graph = ExportGraph(network, policy, None, padded=True)
    padded_KD = torch.from_numpy(pad_names(text_KD.numpy(), 8))
    scores, *rest = graph(image, padded_KD)
    torch.testing.assert_close(scores[..., :count], wanted[0])
    assert bool((scores[..., count:] == 0).all())
    for ours, theirs in zip(rest, wanted[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_more_names_than_rows() -> None:
    with pytest.raises(InputError, match=r"3 names are .* 2 at most; .*--names-count 3"):
        pad_names(np.zeros((3, 384), np.float32), 2)


def test_pictures_go_in_one_by_one() -> None:
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    found = one_by_one(lambda image: {"sum": image.sum((2, 3))}, images)
    np.testing.assert_array_equal(found["sum"], images.sum((2, 3)))


def test_what_the_formats_refuse(tmp_path: Path) -> None:
    def request(**values: object) -> ExportRequest:
        return ExportRequest(model="mobius-test", out=tmp_path, **values)  # type: ignore[arg-type]

    phone = {"runtime": "executorch"}
    assert request(**phone).text_rows == 80
    assert request(**phone, names_count=5).text_rows == 5
    assert request(**phone, names=("cup",)).text_rows is None
    assert request().text_rows is None
    assert request(runtime="litert", precision="fp16").text_rows == 80
    for values, words in (
        ({**phone, "dynamic_size": True}, "one size"),
        ({**phone, "precision": "fp16"}, "allowed: fp32"),
        ({"runtime": "openvino", "precision": "int8"}, "allowed: fp32, fp16"),
        (
            {**phone, "runtime": "litert", "precision": "int8"},
            "litert is 'int8'; allowed: fp32, fp16",
        ),
        ({"runtime": "litert", "dynamic_size": True}, "litert takes pictures of one size"),
        ({"names_count": 5}, "names-count"),
        ({**phone, "names": ("cup",), "names_count": 5}, "names-count"),
        ({"precision": "int8"}, "calibration-images"),
        ({"calibration_images": tmp_path}, "calibration-images"),
        ({"precision": "int8", "calibration_images": tmp_path / "no"}, "no such folder"),
        ({**phone, "segments": True}, "segments"),
        ({"segments": True, "dynamic_size": True}, "segments"),
        ({"segments": True, "everything": True}, "segments"),
        ({"segments": True, "names": ("cup",), "dynamic_names": True}, "segments"),
    ):
        with pytest.raises(InputError, match=words):
            request(**values)


@pytest.mark.parametrize("name", PRESETS)
def test_models_for_phones_alone(name: str) -> None:
    phones = ("mobius-test", "mobius-p", "mobius-n", "mobius-s")
    if name in phones:
        check_static(get_preset(name), "executorch")
        return
    with pytest.raises(InputError, match=f"{name} needs grid_sample, which executorch lacks"):
        check_static(get_preset(name), "executorch")
    check_static(get_preset(name), "litert")
