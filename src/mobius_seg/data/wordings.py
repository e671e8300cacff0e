"""Other ways to ask for the names of composed scenes: synonyms, articles, plurals, and kinds.

A user writes "couches", "a rucksack" or "light fixture" where a pack says "sofa", "backpack" and
"desk lamp". ``related_names.json`` holds synonyms, the kinds that a name belongs to and odd
plurals, written by hand; articles and other plurals follow by rule. Names whose kinds are a matter
of opinion (is a lobster an animal or food?) have none. Legend: K names, G kinds, n wordings of a
name, D text dimensions.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobius_seg.data.names import head_noun
from mobius_seg.data.split import read_split
from mobius_seg.text import TextEncoder

_OF = (" of ", " with ", " in ", " on ", " for ", " behind ")


@dataclass(frozen=True, kw_only=True)
class Wordings:
    """Text vectors of other wordings of a vocabulary's names.

    Attributes:
        vectors: one float32 [n, D] per name of the vocabulary, L2-normalised.
        kind_vectors_GD: one per kind, L2-normalised.
        member_KG: bool, which names belong to which kind; a name without any is not judged.
    """

    vectors: tuple[Tensor, ...]
    kind_vectors_GD: Tensor
    member_KG: Tensor

    @classmethod
    def of(cls, names: Sequence[str], encoder: TextEncoder) -> "Wordings":
        """Encode the wordings of some names.

        Args:
            names: K names; those that the file does not know have articles and plurals alone. What
                is a name among these itself, or would mean two of them, is left out.
            encoder: the network's text encoder.
        """
        owners = Counter(text for name in names for text in set(wordings(name)))
        taken = {text for text, count in owners.items() if count > 1} | set(names)
        texts = [[text for text in wordings(name) if text not in taken] or [name] for name in names]
        kinds = read_kinds()
        flat = encoder.encode([text for own in texts for text in own]).pooled_KD.float()
        member = [[name in members for members in kinds.values()] for name in names]
        return cls(
            vectors=torch.split(flat, [len(own) for own in texts]),
            kind_vectors_GD=encoder.encode(list(kinds)).pooled_KD.float(),
            member_KG=torch.tensor(member, dtype=torch.bool).reshape(len(names), len(kinds)),
        )

    def draw(self, rng: np.random.Generator, row: int) -> Tensor:
        """Text vector [D] of one wording of a name."""
        own_nD = self.vectors[row]
        return own_nD[int(rng.integers(len(own_nD)))]


def wordings(name: str) -> tuple[str, ...]:
    """Other wordings of a name: its synonyms, with an article, in the plural, as a caption.

    None of them is a name of its own, as "beer mugs" is beside "beer mug".
    """
    own = [name, *synonyms(name)]
    found = own[1:]
    for text in own:
        if plural(text) == text and " and " not in text:
            found.append(f"some {text}")
        else:
            found += [f"{article(text)} {text}", plural(text)]
    one = " and " in name or plural(name) != name
    found.append(f"a photo of {f'{article(name)} {name}' if one else name}")
    return tuple(text for text in dict.fromkeys(found) if text not in _names())


def synonyms(name: str) -> tuple[str, ...]:
    """Other names of the same thing, none of which is a name of the split."""
    found: list[str] = _related()["synonyms"].get(name, [])
    return tuple(found)


def read_kinds() -> dict[str, frozenset[str]]:
    """Kind -> names of things that are of this kind; a name may be of several."""
    return {kind: frozenset(names) for kind, names in _related()["kinds"].items()}


def article(text: str) -> str:
    """The indefinite article, by the first letter and a few exceptions."""
    if text.startswith(("uni", "use", "uk", "euro", "uten", "ufo", "one")):
        return "a"
    return "an" if text[0] in "aeiou" or text in ("suv", "x-ray", "hourglass") else "a"


def plural(text: str) -> str:
    """Plural of what a name is about: "wine glasses", "slices of cake"; plurals stay.

    Names that are plurals already ("scissors"), cannot be counted ("bread") or join two things
    ("nut and bolt") stay as they are.
    """
    cut = min((text.find(word) for word in _OF if word in text), default=len(text))
    noun, rest = text[:cut], text[cut:]
    last = noun.split(" ")[-1]
    whole = " and " in text or last.endswith("fish") or head_noun(last) != last
    if whole or last in _related()["no_plural"]:
        return text
    irregular: dict[str, str] = _related()["irregular_plurals"]
    if last in irregular:
        return noun[: len(noun) - len(last)] + irregular[last] + rest
    if last.endswith(("s", "x", "ch", "sh")):
        return noun + "es" + rest
    if last.endswith("y") and last[-2:-1] not in "aeiou":
        return noun[:-1] + "ies" + rest
    return noun + "s" + rest


@cache
def _related() -> dict[str, Any]:
    text = resources.files("mobius_seg.data").joinpath("related_names.json").read_text("utf-8")
    related: dict[str, Any] = json.loads(text)
    return related


@cache
def _names() -> frozenset[str]:
    """All names of the split, of both sides."""
    return frozenset(read_split())
