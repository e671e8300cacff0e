"""Large vocabularies: text that is projected once, and names that no token supports.

Up to :data:`mobius_seg.name_limits.MANY` names nothing here does anything. Beyond, all names are
fused with the image, and those that the tokens most like objects support least leave before the
decoder (:meth:`mobius_seg.selection.QuerySelection.supported`): at each of these tokens a name that
left scores at least ``lag`` logits below the best one. What can change is an instance at another
token, or one whose name only a decoder layer would have found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mobius_seg.model import Mobius
from mobius_seg.name_limits import KEPT, MANY
from mobius_seg.prompts import Prompt, build_batch
from mobius_seg.text_features import TextEncoder
from mobius_seg.types import Encoded, TextPrompt


@dataclass(frozen=True)
class _Known:
    """The last prompt, encoded, and projected where it is a large one."""

    asked: tuple[Prompt, ...]
    encoder: TextEncoder
    prompt: TextPrompt
    weights: tuple[tuple[int, int], ...] = ()
    text_BTC: Tensor | None = None
    mask_BT: Tensor | None = None


class LargeVocabulary:
    """What a predictor knows about the names it is asked for again and again.

    Args:
        network: in evaluation mode, on its device.

    Attributes:
        kept: names that go on to the decoder where a prompt has more than ``MANY``; None keeps all.
        lag_B: of the last such prompt, see above.
    """

    def __init__(self, network: Mobius) -> None:
        """See the class."""
        self.kept: int | None = KEPT
        self.lag_B: Tensor | None = None
        self._network = network
        self._known: _Known | None = None

    def prompt(
        self, asked: Sequence[Prompt], encoder: TextEncoder, device: torch.device
    ) -> TextPrompt:
        """The prompt of a batch for the network; one that all pictures share is remembered.

        Args:
            asked: one for each picture.
            encoder: of their text.
            device: where the network is.
        """
        few = list(asked[:1]) if all(one == asked[0] for one in asked) else list(asked)
        known = self._known
        if known is not None and known.asked == tuple(few) and known.encoder is encoder:
            return known.prompt
        subwords = self._network.config.fuse_subwords
        prompt = build_batch(few, encoder, subwords).to(device)
        if len(few) == 1:
            self._known = _Known(tuple(few), encoder, prompt)
        return prompt

    def encode(self, images_B3HW: Tensor, prompt: TextPrompt) -> Encoded:
        """Encode pictures; of a large vocabulary only the supported names go on.

        Args:
            images_B3HW: RGB in 0..1; height and width are multiples of 32.
            prompt: of :meth:`prompt`.
        """
        encoded = self._encode(images_B3HW, prompt)
        if self.kept is None or encoded.text_BKC.shape[1] <= MANY:
            return encoded
        short, self.lag_B = shortlist(self._network, encoded, self.kept)
        return short

    def knows(self, prompt: TextPrompt) -> bool:
        """Whether the text of a prompt is projected already, and need not be again."""
        known = self._known
        if known is None or known.prompt is not prompt or known.text_BTC is None:
            return False
        return known.weights == self._weights()

    def _encode(self, images_B3HW: Tensor, prompt: TextPrompt) -> Encoded:
        many = prompt.pooled_BKD.shape[1] > MANY
        if not many or self._known is None or self._known.prompt is not prompt:
            return self._network.encode(images_B3HW, prompt)
        if not self.knows(prompt):
            text_BTC, mask_BT = self._network.text_tokens(prompt)
            fuse = self._network.pixel_decoder.fuse
            fuse.known = fuse.text_side(text_BTC)
            self._known = replace(
                self._known, weights=self._weights(), text_BTC=text_BTC, mask_BT=mask_BT
            )
        assert self._known.text_BTC is not None
        columns = prompt.pooled_BKD.shape[1]
        return self._network.encode_tokens(
            images_B3HW, self._known.text_BTC, self._known.mask_BT, columns, prompt.pooled_mask_BK
        )

    def _weights(self) -> tuple[tuple[int, int], ...]:
        """Tells whether the weights that the text meets alone are those that they were."""
        network = self._network
        sides = [
            one for name, one in network.pixel_decoder.fuse.named_parameters() if "text" in name
        ]
        projection = network.text_projection
        read = (projection.weight, projection.bias, network.object_token, *sides)
        return tuple(
            (one.data_ptr(), one._version) for one in (*read, network.get_buffer("text_mean"))
        )


def shortlist(network: Mobius, encoded: Encoded, keep: int) -> tuple[Encoded, Tensor]:
    """Only the names of an encoded batch that its tokens support best.

    Args:
        network: what encoded it.
        encoded: with all its columns.
        keep: how many names of each picture stay.

    Returns:
        The batch with ``keep`` columns a picture, and the least lag [B] of the names that left.
    """
    kept_BK, lag_B = network.decoder.selection.supported(
        encoded.maps,
        encoded.names,
        encoded.text_BKC,
        encoded.column_mask_BK,
        network.object_column,
        keep,
    )
    batch = kept_BK.shape[0]
    text_BKC = encoded.text_BKC.expand(batch, -1, -1)
    mask_BK = encoded.column_mask_BK
    if mask_BK is not None:
        mask_BK = mask_BK.expand(batch, -1).gather(1, kept_BK)
    index_BKC = kept_BK[..., None].expand(-1, -1, text_BKC.shape[2])
    short = replace(
        encoded,
        text_BKC=text_BKC.gather(1, index_BKC),
        column_mask_BK=mask_BK,
        columns_BK=kept_BK,
    )
    return short, lag_B
