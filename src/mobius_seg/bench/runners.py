"""How each contender is loaded, and what one run of it is.

A run goes from one picture as a tensor to scores, boxes and mask logits as tensors: neither reading
and resizing the picture before nor making instances after is in it. ``predict`` alone goes from an
array of the input's size to instances.
"""

import importlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mobius_seg.bench.contenders import ALL_NAMES, PEER, STAGES, Contender, own_config
from mobius_seg.checkpoint import is_shipped, load_model
from mobius_seg.config import ModelConfig
from mobius_seg.cost.report import points_of
from mobius_seg.errors import InputError
from mobius_seg.export.schedule import find_schedule
from mobius_seg.operating_points import FULL
from mobius_seg.predictor import Predictor
from mobius_seg.preprocess import make_frame, pad_and_stack
from mobius_seg.presets import PRESETS
from mobius_seg.pruned_decoder import run_pruned
from mobius_seg.pruning import PruningPolicy
from mobius_seg.text_cache import CachedEncoder
from mobius_seg.text_features import TextFeatures
from mobius_seg.types import TextPrompt

if TYPE_CHECKING:
    from mobius_seg.model import Mobius


class Runner(Protocol):
    """What a worker drives.

    Attributes:
        facts: what is worth knowing about it beside its times, JSON-ready.
    """

    facts: dict[str, Any]

    def run(self) -> None:
        """Run once."""

    def start_block(self) -> None:
        """What follows is counted."""

    def end_block(self) -> dict[str, Any]:
        """What was measured in the block beside the times, JSON-ready."""


def load_runner(contender: Contender) -> Runner:
    """Load a contender into this process.

    Raises:
        InputError: its model, folder or file cannot be used.
    """
    if contender.runtime == STAGES:
        from mobius_seg.bench.stages import StageRunner

        return StageRunner(contender)
    if contender.runtime == PEER:
        return PeerRunner(contender)
    if contender.runtime == "predict":
        return PredictRunner(contender)
    if contender.scenes:
        from mobius_seg.bench.adaptive import AdaptiveRunner

        return AdaptiveRunner(contender)
    return TorchRunner(contender) if contender.runtime == "torch" else ExportedRunner(contender)


class _PlainRunner:
    """A runner that measures nothing beside its times."""

    facts: dict[str, Any]

    def start_block(self) -> None:
        """See :class:`Runner`."""

    def end_block(self) -> dict[str, Any]:
        """See :class:`Runner`."""
        return {}


class TorchRunner(_PlainRunner):
    """The network in eager mode, text side included.

    Args:
        contender: of runtime ``torch``.
    """

    def __init__(self, contender: Contender) -> None:
        """See the class."""
        self.network, drawn = load_network(contender)
        self.policy, origin = static_policy(contender, self.network.config)
        self.images_B3HW, self.prompt = network_inputs(contender, self.network.config)
        self.facts = {"weights": "random" if drawn else "trained", "schedule": origin}

    @torch.inference_mode()
    def run(self) -> None:
        """Encode, decode, masks of the queries that are left."""
        encoded = self.network.encode(self.images_B3HW, self.prompt)
        output = run_pruned(self.network, encoded, self.policy)[0].output
        self.network.mask_product(output.layers[-1].mask_embed_BQM, output.mask_features_BMhw)


class PredictRunner(_PlainRunner):
    """The whole call of ``predict``; names have seeded vectors in the text cache's memory.

    Args:
        contender: of runtime ``predict``.
    """

    def __init__(self, contender: Contender) -> None:
        """See the class."""
        network, drawn = load_network(contender)
        policy, origin = static_policy(contender, network.config)
        self.policy = policy if contender.operating_point != FULL else None
        encoder = CachedEncoder(SeededEncoder(network.config), Path(os.devnull), bundled=None)
        self.model = Predictor(network, text_encoder=encoder, device="cpu")
        if contender.vocabulary == ALL_NAMES:
            self.model.vocabulary.kept = None
        self.names = [f"name {i}" for i in range(contender.names)]
        self.picture = _noise(contender)
        self.size = max(contender.size)
        self.facts = {"weights": "random" if drawn else "trained", "schedule": origin}

    def run(self) -> None:
        """One call."""
        self.model.predict(
            self.picture, names=self.names, size=self.size, operating_point=self.policy
        )


class SeededEncoder:
    """Unit vectors drawn from the digest of each string, in place of a text encoder.

    Args:
        config: of the network that reads them.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        self.dim, self.identity = config.text_dim, config.text_encoder

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """One vector a string; it is its only sub-word too."""
        rows = [self._vector(text) for text in texts]
        return TextFeatures.stack(rows, [row[None] for row in rows], self.dim)

    def _vector(self, text: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
        return functional.normalize(torch.randn(self.dim, generator=generator), dim=0)


class ExportedRunner(_PlainRunner):
    """A folder that ``mobius-seg export`` wrote.

    Args:
        contender: with its ``path``.
    """

    def __init__(self, contender: Contender) -> None:
        """See the class."""
        from mobius_seg.export import open_exported

        self.model = open_exported(Path(contender.path), threads=contender.threads)
        self.image_B3HW = picture(contender)
        self.text_KD: NDArray[np.float32] | None = None
        if contender.vocabulary == "dynamic":
            dim = own_config(contender.model).text_dim
            self.text_KD = text_vectors(contender, dim).numpy()
        self.facts = {"file_mb": _megabytes(Path(contender.path))}

    def run(self) -> None:
        """One call of the runtime."""
        self.model.run(self.image_B3HW, self.text_KD)


class PeerRunner(_PlainRunner):
    """Any ONNX file with image-like inputs, in ONNX Runtime.

    Args:
        contender: with its ``path``.
    """

    def __init__(self, contender: Contender) -> None:
        """See the class."""
        onnxruntime: Any = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = contender.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            contender.path, options, providers=["CPUExecutionProvider"]
        )
        generator = np.random.default_rng(contender.seed)
        self.feed = {}
        for entry in self.session.get_inputs():
            shape = [side if isinstance(side, int) else 1 for side in entry.shape]
            if entry.type != "tensor(float)":
                raise InputError(f"{contender.path}: input {entry.name} is {entry.type}, not float")
            self.feed[entry.name] = generator.random(shape, dtype=np.float32)
        shapes = {name: list(value.shape) for name, value in self.feed.items()}
        self.facts = {"file_mb": _megabytes(Path(contender.path)), "inputs": shapes}

    def run(self) -> None:
        """One call of the session."""
        self.session.run(None, self.feed)


def load_network(contender: Contender) -> "tuple[Mobius, bool]":
    """The network of a contender, and whether its weights were drawn at random.

    A preset without released weights is drawn: what a fixed schedule costs does not depend on them.
    """
    torch.set_num_threads(contender.threads)
    drawn = contender.model in PRESETS and not is_shipped(contender.model)
    return load_model(contender.model, random_weights=drawn, seed=contender.seed), drawn


def static_policy(contender: Contender, config: ModelConfig) -> tuple[PruningPolicy, str]:
    """The fixed schedule of a contender's operating point, and where it comes from.

    It is that of exported graphs: an adaptive point looks at the picture, which none can.

    Raises:
        InputError: the model has no such point.
    """
    found = find_schedule(config, points_of(contender.model), contender.operating_point)
    return found.policy, found.origin


def network_inputs(contender: Contender, config: ModelConfig) -> tuple[torch.Tensor, TextPrompt]:
    """Image and prompt as ``predict`` gives them to the network, laid out in memory alike."""
    noise_HW3 = _noise(contender)
    frame = make_frame(*contender.size, max(contender.size))
    images_B3HW = pad_and_stack([noise_HW3], frame)
    return images_B3HW, TextPrompt(text_vectors(contender, config.text_dim)[None])


def picture(contender: Contender) -> NDArray[np.float32]:
    """The same picture as an array, float32 [1, 3, H, W] in 0..1, contiguous."""
    noise_HW3 = _noise(contender).astype(np.float32) / 255
    return np.ascontiguousarray(noise_HW3.transpose(2, 0, 1)[None])


def text_vectors(contender: Contender, dim: int) -> torch.Tensor:
    """Seeded unit vectors that stand for the names, [K, D]: no encoder is needed."""
    generator = torch.Generator().manual_seed(contender.seed)
    return functional.normalize(torch.randn(contender.names, dim, generator=generator), dim=-1)


def _noise(contender: Contender) -> NDArray[np.uint8]:
    generator = np.random.default_rng(contender.seed)
    return generator.integers(0, 256, (*contender.size, 3), dtype=np.uint8)


def _megabytes(path: Path) -> float:
    """Size of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return round(sum(file.stat().st_size for file in files) / 1e6, 3)
