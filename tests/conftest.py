"""Fixtures of all tests: one tiny model, in memory and on disk, and no file in the user's cache."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.support.models import HashEncoder, lively_network

from mobius_seg.checkpoint import save_model
from mobius_seg.predictor import Predictor


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep encoded text of the tests out of the user's cache."""
    before = os.environ.get("MOBIUS_SEG_CACHE")
    os.environ["MOBIUS_SEG_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["MOBIUS_SEG_CACHE"]
    else:
        os.environ["MOBIUS_SEG_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Networks of a few kilobytes run fastest on one thread, above all on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    """mobius-test with lively weights and an encoder that needs no weights."""
    return Predictor(lively_network(), text_encoder=HashEncoder(), device="cpu")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as a folder on disk."""
    folder = tmp_path_factory.mktemp("models") / "lively"
    save_model(lively_network(), folder, training={"steps": 0}, float16=False)
    return folder


@pytest.fixture
def photo() -> NDArray[np.uint8]:
    """A picture with edges: uint8 [48, 80, 3]."""
    y, x = np.mgrid[:48, :80]
    picture = np.stack([x * 3, y * 5, (x // 8 + y // 8) % 2 * 255], axis=-1)
    return picture.astype(np.uint8)
