"""What a user asks for, checked, and as the network reads it.

Shapes: B images of a batch, K names, T sub-words, D text width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from mobius_seg.errors import InputError
from mobius_seg.text import TextEncoder, TextFeatures
from mobius_seg.text_cache import CachedEncoder, check_text
from mobius_seg.text_features import pad_sequences
from mobius_seg.types import TextPrompt

EVERYTHING_NAME = "object"


@dataclass(frozen=True)
class Prompt:
    """What one picture is asked for: names, an expression, or (both None) every object.

    Attributes:
        names: names as given, duplicates included; may be empty.
        expression: a referring expression.
    """

    names: tuple[str, ...] | None = None
    expression: str | None = None

    @cached_property
    def texts(self) -> list[str]:
        """What is encoded, one column of the network's prompt each: every text once."""
        if self.expression is not None:
            return [self.expression.strip()]
        return list(self._first_positions)

    @cached_property
    def labels(self) -> list[str]:
        """The column's name in results: as given, at its first occurrence."""
        if self.expression is not None:
            return [self.expression]
        if self.names is None:
            return [EVERYTHING_NAME]
        return [self.names[position] for position in self._first_positions.values()]

    @cached_property
    def positions(self) -> list[int]:
        """The column's position among the names as given."""
        return list(self._first_positions.values()) or [0]

    @property
    def asks_nothing(self) -> bool:
        """Names were given, but none of them: the answer is known without looking."""
        return self.names == ()

    @cached_property
    def _first_positions(self) -> dict[str, int]:
        """Every different name (without surrounding spaces) with its first position."""
        positions: dict[str, int] = {}
        for position, name in enumerate(self.names or ()):
            positions.setdefault(name.strip(), position)
        return positions


def read_prompts(names: object, expression: object, count: int, many: bool) -> list[Prompt]:
    """Check what the user asked for and say what it means for each picture.

    Args:
        names: None, a list of strings, or (with a list of pictures) one such list each.
        expression: None, a string, or (with a list of pictures) one each.
        count: number of pictures.
        many: whether they came as a list.

    Returns:
        ``count`` prompts, all of one kind.

    Raises:
        InputError: both are given, a name or expression is blank or not a string, or their number
            is not that of the pictures.
    """
    if names is not None and expression is not None:
        raise InputError("names and expression cannot both be given; run predict twice")
    if expression is not None:
        return _read_expressions(expression, count, many)
    if names is None:
        return [Prompt()] * count
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InputError(f"names must be a list of strings, got {names!r:.60}")
    nested = [not isinstance(entry, str) and isinstance(entry, Sequence) for entry in names]
    if not any(nested):
        return [_names_prompt(names)] * count
    if not all(nested) or not many:
        raise InputError("names must be strings, or one list of strings for each picture of a list")
    _check_count("names", len(names), count)
    return [Prompt(names=_read_names(entry, f"names[{i}]")) for i, entry in enumerate(names)]


def build_batch(
    prompts: Sequence[Prompt], encoder: TextEncoder, subwords: bool = False
) -> TextPrompt:
    """Encode the prompts of a batch.

    Args:
        prompts: B prompts of one kind, none of which asks nothing.
        encoder: encodes every different text once.
        subwords: names bring their sub-words too (``ModelConfig.fuse_subwords``).

    Returns:
        One prompt for the network. Equal prompts are given once (leading dimension 1), different
        ones are padded with masked columns.
    """
    if all(prompt == prompts[0] for prompt in prompts):
        prompts = prompts[:1]
    if prompts[0].expression is not None:
        return _expressions_prompt(encoder.encode([prompt.texts[0] for prompt in prompts]))
    texts = [prompt.texts for prompt in prompts]
    if not any(texts):
        return TextPrompt.everything(encoder.dim)
    known = list(dict.fromkeys(text for row in texts for text in row))
    vectors = dict(zip(known, pooled_vectors(encoder, known), strict=True))
    width = max(len(row) for row in texts)
    pooled_BKD = torch.zeros(len(texts), width, encoder.dim)
    mask_BK = torch.zeros(len(texts), width, dtype=torch.bool)
    for i, row in enumerate(texts):
        pooled_BKD[i, : len(row)] = torch.stack([vectors[text] for text in row])
        mask_BK[i, : len(row)] = True
    columns = None if bool(mask_BK.all()) else mask_BK
    if not subwords:
        return TextPrompt(pooled_BKD, columns)
    tokens_BTD, real_BT = pad_sequences([encoder.encode(row).sequence() for row in texts])
    return TextPrompt(pooled_BKD, columns, tokens_BTD, None if bool(real_BT.all()) else real_BT)


def pooled_vectors(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """Pooled vectors [K, D]; common names come without the encoder where it is a cached one."""
    if isinstance(encoder, CachedEncoder):
        return encoder.pooled(texts)
    return encoder.encode(texts).pooled_KD


def _expressions_prompt(features: TextFeatures) -> TextPrompt:
    """One column an image, and its sub-words."""
    mask_BT = features.tokens_mask_KT
    return TextPrompt(
        features.pooled_KD[:, None],
        None,
        features.tokens_KTD,
        None if bool(mask_BT.all()) else mask_BT,
    )


def _read_expressions(expression: object, count: int, many: bool) -> list[Prompt]:
    """Prompts of one expression, or of one for each picture."""
    if isinstance(expression, str):
        return [Prompt(expression=_read_text(expression, "expression"))] * count
    if not isinstance(expression, Sequence) or not many:
        raise InputError(f"expression must be a string, got {expression!r:.60}")
    _check_count("expression", len(expression), count)
    return [
        Prompt(expression=_read_text(entry, f"expression[{i}]"))
        for i, entry in enumerate(expression)
    ]


def _names_prompt(names: Sequence[Any]) -> Prompt:
    """The prompt of one list; the same list again is not checked again."""
    try:
        return _checked_names(tuple(names))
    except TypeError:  # something that cannot be hashed, which is no string
        return Prompt(names=_read_names(names, "names"))


@lru_cache(maxsize=8)
def _checked_names(names: tuple[str, ...]) -> Prompt:
    return Prompt(names=_read_names(names, "names"))


def _read_names(names: Sequence[object], where: str) -> tuple[str, ...]:
    """Check the names of one list."""
    return tuple(_read_text(name, f"{where}[{i}]") for i, name in enumerate(names))


def _read_text(text: object, where: str) -> str:
    """Check one name or expression."""
    try:
        checked = check_text(text)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if not checked.strip():
        raise InputError(f"{where} is blank; every name and expression needs a visible character")
    return checked


def _check_count(field: str, given: int, pictures: int) -> None:
    """One entry a picture."""
    if given != pictures:
        raise InputError(f"{field} has {given} entries for {pictures} pictures; give one for each")
