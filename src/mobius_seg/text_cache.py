"""Encoded strings kept in memory, on disk and in a file that ships with the package.

On disk every string is one small safetensors file under the SHA-256 of the encoder's identity and
the string, written beside and renamed, so that any number of processes may share the folder.
"""

import hashlib
import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mobius_seg.errors import InputError
from mobius_seg.files import atomic_path
from mobius_seg.text_features import TextEncoder, TextFeatures

BUNDLED_NAMES = Path(__file__).parent / "weights" / "names.safetensors"
BUNDLED_CLASSES = BUNDLED_NAMES.with_name("classes.safetensors")
_log = logging.getLogger(__name__)


class CachedEncoder:
    """Encodes no string twice.

    Safe to use from several threads; safe to share its folder between processes.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        cache_dir: str | Path | None = None,
        bundled: Path | None = BUNDLED_NAMES,
    ) -> None:
        """Wrap an encoder.

        Args:
            encoder: encodes what is not cached.
            cache_dir: folder of the disk cache; None for :func:`default_cache_dir`. A folder that
                cannot be used is not an error: strings are then kept in memory alone.
            bundled: file of pooled vectors written by :func:`write_names`, used by :meth:`pooled`
                when it was made with the same encoder. None for none.
        """
        self.encoder = encoder
        self.cache_dir = Path(cache_dir) if cache_dir is not None else default_cache_dir()
        self._bundled_path = bundled
        self._bundled: dict[str, Tensor] | None = None
        self._memory: dict[str, tuple[Tensor, Tensor]] = {}
        self._lock = threading.RLock()
        self._disk_works = True

    @property
    def dim(self) -> int:
        """Width D of every vector."""
        return self.encoder.dim

    @property
    def identity(self) -> str:
        """Identity of the wrapped encoder: caching changes nothing."""
        return self.encoder.identity

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Encode K strings; equal strings and known strings are not encoded again.

        Raises:
            InputError: a text is not a string, or holds half a surrogate pair.
        """
        for text in texts:
            check_text(text)
        with self._lock:
            missing = [text for text in dict.fromkeys(texts) if not self._recall(text)]
            if missing:
                self._learn(missing)
            entries = [self._memory[text] for text in texts]
        return TextFeatures.stack(
            [entry[0] for entry in entries], [e[1] for e in entries], self.dim
        )

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """Pooled vectors [K, D] alone; names of the bundled file need no encoder at all.

        Raises:
            InputError: as :meth:`encode`.
        """
        for text in texts:
            check_text(text)
        bundled = self._read_bundled()
        rest = [text for text in texts if _plain(text) not in bundled]
        encoded = iter(self.encode(rest).pooled_KD)
        rows = [
            bundled[_plain(text)] if _plain(text) in bundled else next(encoded) for text in texts
        ]
        return torch.stack(rows) if rows else torch.zeros(0, self.dim)

    def _recall(self, text: str) -> bool:
        """Bring a string into memory from memory or disk."""
        if text in self._memory:
            return True
        try:
            entry = load_file(self._path(text))
            pooled_D, tokens_TD = entry["pooled"], entry["tokens"]
        except (OSError, SafetensorError, KeyError):
            return False  # not there, or torn by something outside: encode it again
        if pooled_D.shape != (self.dim,) or tokens_TD.ndim != 2 or tokens_TD.shape[1] != self.dim:
            return False
        self._memory[text] = (pooled_D.float(), tokens_TD.float())
        return True

    def _learn(self, texts: list[str]) -> None:
        """Encode strings and keep them."""
        features = self.encoder.encode(texts)
        for row, text in enumerate(texts):
            tokens_TD = features.tokens_KTD[row][features.tokens_mask_KT[row]].clone()
            self._memory[text] = (features.pooled_KD[row].clone(), tokens_TD)
            self._store(text)

    def _store(self, text: str) -> None:
        """Write one string to disk; the first failure is logged and ends all further tries."""
        if not self._disk_works:
            return
        pooled_D, tokens_TD = self._memory[text]
        try:
            with atomic_path(self._path(text)) as temporary:
                save_file({"pooled": pooled_D, "tokens": tokens_TD.contiguous()}, temporary)
        except (OSError, SafetensorError) as error:
            self._disk_works = False
            _log.warning("text cache %s cannot be written: %s", self.cache_dir, error)

    def _path(self, text: str) -> Path:
        """File of one string."""
        key = hashlib.sha256(f"{self.identity}\0{text}".encode()).hexdigest()
        return self.cache_dir / "text" / key[:2] / f"{key}.safetensors"

    def _read_bundled(self) -> dict[str, Tensor]:
        """Pooled vectors of the bundled names; empty when made with another encoder."""
        if self._bundled is None:
            self._bundled = {}
            if self._bundled_path is not None and self._bundled_path.is_file():
                self._bundled = read_names(self._bundled_path, self.identity)
        return self._bundled


def default_cache_dir() -> Path:
    """Folder for cached text: ``MOBIUS_SEG_CACHE``, or the platform's user cache folder."""
    override = os.environ.get("MOBIUS_SEG_CACHE")
    if override:
        return Path(override)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "mobius-seg"


def check_text(text: object) -> str:
    """Check that something can be encoded at all.

    Raises:
        InputError: it is not a string, or not valid Unicode.
    """
    if not isinstance(text, str):
        raise InputError(f"text must be a string, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"text {text[:40]!r} is not valid Unicode: {error.reason}") from error
    return text


def write_names(path: str | Path, names: Sequence[str], encoder: TextEncoder) -> None:
    """Write the pooled vectors of names (float16) for :meth:`CachedEncoder.pooled`.

    Args:
        path: the file, replaced whole.
        names: kept in lower case, once each.
        encoder: what encodes them.
    """
    plain = sorted({_plain(check_text(name)) for name in names})
    pooled_KD = encoder.encode(plain).pooled_KD.half()
    metadata = {"identity": encoder.identity, "names": json.dumps(plain)}
    with atomic_path(path) as temporary:
        save_file({"pooled": pooled_KD}, temporary, metadata)


def read_names(path: Path, identity: str) -> dict[str, Tensor]:
    """Read what :func:`write_names` wrote.

    Returns:
        Name (lower case) to its L2-normalised float32 vector [D]; empty when the file was made with
        an encoder of another identity.

    Raises:
        InputError: the file is broken.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = json.loads(metadata["names"])
            pooled_KD = file.get_tensor("pooled").float()
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a file of encoded names: {error}") from error
    if metadata.get("identity") != identity:
        return {}
    pooled_KD = torch.nn.functional.normalize(pooled_KD, dim=-1)
    return dict(zip(names, pooled_KD, strict=True))


def _plain(text: str) -> str:
    """Lower case with single spaces: what MiniLM's own tokenizer makes of it."""
    return " ".join(text.lower().split())
