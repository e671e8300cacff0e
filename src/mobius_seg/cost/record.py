"""The result of a count, and what is counted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mobius_seg.config import ModelConfig
from mobius_seg.cost.parts import GROUPS, RECOGNITION
from mobius_seg.errors import InputError

TOKENS_A_NAME = 3.25  # of the stated costs: 260 tokens for 80 names


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One image and one prompt.

    Attributes:
        height: of the image in pixels, a multiple of 32.
        width: of the image in pixels, a multiple of 32.
        names: columns K of the prompt.
        subwords: sub-word tokens that come into the fusion beside the columns.
        shortlist: columns that the decoder sees, of those that are fused; 0 = all
            (:mod:`mobius_seg.vocabulary`).
        text_known: the columns were projected before, for an earlier image.
    """

    height: int
    width: int
    names: int
    subwords: int = 0
    shortlist: int = 0
    text_known: bool = False

    @property
    def decoded_names(self) -> int:
        """Columns that the decoder compares its queries with."""
        return self.shortlist or self.names

    @property
    def text_tokens(self) -> int:
        """Text tokens T in the fusion: object token, columns, sub-words."""
        return 1 + self.names + self.subwords


def workload(
    config: ModelConfig, size: tuple[int, int], names: int, text_tokens: int | None = None
) -> Workload:
    """What a model reads when it is asked for so many names.

    Args:
        config: a model that fuses pooled names has one token a name whatever ``text_tokens`` says;
            one with ``fuse_subwords`` has ``text_tokens`` in all.
        size: height and width in pixels.
        names: number of names K.
        text_tokens: T, the object token and the K columns included; None for names alone.

    Raises:
        InputError: fewer tokens than the columns alone make.
    """
    if not config.fuse_subwords or text_tokens is None:
        return Workload(height=size[0], width=size[1], names=names)
    if text_tokens < names + 1:
        raise InputError(
            f"{text_tokens} text tokens for {names} names; allowed: {names + 1} or more, one a name"
            " and the object token"
        )
    return Workload(height=size[0], width=size[1], names=names, subwords=text_tokens - names - 1)


def stated_text_tokens(names: int) -> int:
    """Text tokens that stated costs count for so many names where sub-words are fused."""
    return max(names + 1, round(TOKENS_A_NAME * names))


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Cost of one forward pass.

    Attributes:
        parameters: number of parameters by part.
        macs: multiply-accumulates by part, in the order of the forward pass.
    """

    parameters: Mapping[str, int]
    macs: Mapping[str, int]

    @property
    def total_parameters(self) -> int:
        """Number of parameters of the whole network."""
        return sum(self.parameters.values())

    @property
    def gmac(self) -> float:
        """Cost of the whole pass in 10^9 multiply-accumulates."""
        return sum(self.macs.values()) / 1e9

    def part_gmac(self, part: str) -> float:
        """Cost in GMAC of a part and of what lies under it.

        Args:
            part: a key of :attr:`macs`, or what comes before a dot in several of them, as
                ``pixel_decoder`` and ``transformer_decoder.layer1``.
        """
        return part_sum(self.macs, part) / 1e9

    def totals(self) -> dict[str, float]:
        """GMAC of the backbone, the two decoders, the text and the whole.

        Recognition comes in between where there is any.
        """
        groups = (*GROUPS, RECOGNITION) if RECOGNITION in self.macs else GROUPS
        return {group: self.part_gmac(group) for group in groups} | {"total": self.gmac}


def with_recognition(profile: Profile, macs: int, parameters: int = 0) -> Profile:
    """The same profile with what recognising costs beside it (:mod:`mobius_seg.recognition`).

    Args:
        profile: of the network.
        macs: of all crops; with none the profile stays as it is.
        parameters: of the classifier.
    """
    if not macs:
        return profile
    return Profile(
        parameters={**profile.parameters, RECOGNITION: parameters},
        macs={**profile.macs, RECOGNITION: macs},
    )


def part_sum(values: Mapping[str, int], part: str) -> int:
    """Sum over a part and what lies under it."""
    return sum(n for key, n in values.items() if f"{key}.".startswith(f"{part}."))


def add_up(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Sum by part, in order of first appearance."""
    sums: dict[str, int] = {}
    for part, value in pairs:
        sums[part] = sums.get(part, 0) + value
    return sums
