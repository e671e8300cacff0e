"""``text_encoder.onnx`` and ``tokenizer.json``: names to vectors without this package.

Shapes: K strings, T sub-words of the longest of them, D text width.
"""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.errors import InputError
from mobius_seg.export.onnx_file import onnx_model, save_onnx
from mobius_seg.export.session import Array
from mobius_seg.text import MINILM_IDENTITY, MINILM_MAX_TOKENS, load_transformer, packaged_minilm

TEXT_FILE, TOKENIZER_FILE = "text_encoder.onnx", "tokenizer.json"
TEXT_INPUTS, TEXT_OUTPUT = ("input_ids", "attention_mask"), "text"


class PooledText(nn.Module):
    """MiniLM with its pooling: mean of the states of all sub-words, L2-normalised.

    Args:
        model: a BERT of transformers.
    """

    def __init__(self, model: Any) -> None:
        """See the class."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Sub-words int64 [K, T] and which are real, int64 [K, T] -> vectors float32 [K, D]."""
        states_KTD = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        weight_KT1 = attention_mask[..., None].to(states_KTD.dtype)
        mean_KD = (states_KTD * weight_KT1).sum(1) / weight_KT1.sum(1)
        return F.normalize(mean_KD, dim=-1)


def check_encoder(identity: str) -> None:
    """See that an encoder can be exported.

    Args:
        identity: of the encoder that a model was trained with.

    Raises:
        InputError: it is another one than the packaged MiniLM.
    """
    if identity != MINILM_IDENTITY:
        raise InputError(
            f"the text encoder {identity!r} cannot be exported (allowed: {MINILM_IDENTITY}); give"
            " --names"
        )


def write_text_encoder(folder: Path) -> dict[str, Any]:
    """Write both files of MiniLM.

    Args:
        folder: to write them into.

    Returns:
        What ``model.json`` says about them.
    """
    source = packaged_minilm()
    _, network = load_transformer("AutoModel", source)
    network.config._attn_implementation = "eager"  # written out, no fused operator
    module = PooledText(network.float()).eval()
    ids = torch.tensor([[101, 2452, 3899, 102], [101, 5835, 102, 0]])
    shape = {0: torch.export.Dim("names", min=1, max=65536)}
    shape[1] = torch.export.Dim("subwords", min=3, max=MINILM_MAX_TOKENS)
    shapes = dict.fromkeys(TEXT_INPUTS, shape)
    inputs = (ids, (ids > 0).long())
    model = onnx_model(module, inputs, list(TEXT_INPUTS), [TEXT_OUTPUT], shapes)
    facts = {"text_encoder": MINILM_IDENTITY, "licence": "Apache-2.0"}
    save_onnx(model, folder / TEXT_FILE, facts)
    tokenizer = load_tokenizer(source / TOKENIZER_FILE)
    tokenizer.no_padding()
    tokenizer.enable_padding()
    tokenizer.enable_truncation(MINILM_MAX_TOKENS)
    tokenizer.save(str(folder / TOKENIZER_FILE))
    return {
        "text_encoder_file": TEXT_FILE,
        "tokenizer_file": TOKENIZER_FILE,
        "text_encoder_inputs": {key: ["names", "subwords"] for key in TEXT_INPUTS},
        "text_encoder_output": {TEXT_OUTPUT: ["names", module.model.config.hidden_size]},
    }


def encode_names(folder: str | Path, names: list[str]) -> Array:
    """Vectors float32 [K, D] of names from the two files of an exported folder.

    Raises:
        InputError: a file is missing.
    """
    import onnxruntime

    folder = Path(folder)
    for file in (TEXT_FILE, TOKENIZER_FILE):
        if not (folder / file).is_file():
            raise InputError(f"{folder}: has no {file}; export with --dynamic-names")
    rows = load_tokenizer(folder / TOKENIZER_FILE).encode_batch(names)
    session: Any = onnxruntime.InferenceSession(
        str(folder / TEXT_FILE), providers=["CPUExecutionProvider"]
    )
    feed = {
        "input_ids": [row.ids for row in rows],
        "attention_mask": [row.attention_mask for row in rows],
    }
    vectors: Array = session.run([TEXT_OUTPUT], feed)[0]
    return vectors


def load_tokenizer(file: Path) -> Any:
    """A tokenizer of the package tokenizers, which transformers brings."""
    tokenizers: Any = importlib.import_module("tokenizers")
    return tokenizers.Tokenizer.from_file(str(file))
