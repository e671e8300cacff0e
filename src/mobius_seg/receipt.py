"""What a result cost: layers run, queries kept, multiply-accumulates executed."""

from dataclasses import dataclass
from typing import Any

from mobius_seg.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What was executed for one image.

    Attributes:
        config: of the network that ran.
        input_hw: height and width of its padded input in pixels.
        columns: columns of the prompt, K.
        tokens: sub-word tokens of an expression, 0 for names.
        queries: how many queries ran each stage, the query selection first.
        masks: how many masks were computed.
        shortlist: columns that the decoder saw (:mod:`mobius_seg.vocabulary`); 0 = all.
        text_known: the text was projected before, for an earlier image.
        crops: objects that were cut out and recognised (:mod:`mobius_seg.recognition`).
        crop_macs: multiply-accumulates of recognising one of them.
    """

    config: ModelConfig
    input_hw: tuple[int, int]
    columns: int
    tokens: int
    queries: tuple[int, ...]
    masks: int
    shortlist: int = 0
    text_known: bool = False
    crops: int = 0
    crop_macs: int = 0

    @property
    def layers(self) -> int:
        """Decoder layers that ran."""
        return len(self.queries) - 1

    @property
    def gmac(self) -> dict[str, float]:
        """Executed cost in GMAC for this image alone (:mod:`mobius_seg.cost.closed`).

        Keys: ``backbone``, ``pixel_decoder``, ``transformer_decoder`` (selection, memory, layers,
        heads and mask product), ``text`` (its projection into the network), ``recognition`` where
        objects were recognised, and ``total``. In a batch whose images share a prompt, the text is
        projected once for all of them.
        """
        from mobius_seg.cost.certify import executed_profile
        from mobius_seg.cost.record import Workload, with_recognition

        height, width = self.input_hw
        work = Workload(
            height=height,
            width=width,
            names=self.columns,
            subwords=self.tokens,
            shortlist=self.shortlist,
            text_known=self.text_known,
        )
        profile = executed_profile(self.config, work, self.queries, self.masks)
        return with_recognition(profile, self.crops * self.crop_macs).totals()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: layers, queries of each stage, masks, GMAC by part; crops where any were."""
        gmac = {key: round(value, 6) for key, value in self.gmac.items()}
        return {
            "layers": self.layers,
            "queries": list(self.queries),
            "masks": self.masks,
            **({"crops": self.crops} if self.crops else {}),
            "gmac": gmac,
        }
