"""The network: backbone, bottleneck pixel decoder with text, query selection, decoder, heads."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mobius_seg.backbone import Backbone
from mobius_seg.config import ModelConfig
from mobius_seg.decoder import Decoder
from mobius_seg.errors import InputError
from mobius_seg.heads import MaskProduct
from mobius_seg.layers import unit
from mobius_seg.multiscale import MultiscalePixelDecoder
from mobius_seg.naming import NameEvidence, NameMap
from mobius_seg.pixel_decoder import PixelDecoder
from mobius_seg.types import Encoded, ModelOutput, RegionOutput, TextPrompt

_LEAST_NAMES = 64  # names that the mean and the directions of text are taken from


class Mobius(nn.Module):
    """Universal instance segmentation network.

    Args:
        config: every choice that shapes it; see :mod:`mobius_seg.presets`.
    """

    def __init__(self, config: ModelConfig) -> None:
        """See the class."""
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.text_projection = nn.Linear(config.text_dim, config.width)
        self.object_token = nn.Parameter(torch.randn(config.width) * config.width**-0.5)
        self.object_column = nn.Parameter(torch.randn(config.width) * config.width**-0.5)
        pixels = PixelDecoder if config.pixel_decoder == "bottleneck" else MultiscalePixelDecoder
        self.pixel_decoder = pixels(config, self.backbone.channels)
        fine, coarse = self.backbone.channels[2:]
        self.name_map: NameMap | None = None
        if config.name_map:
            self.name_map = NameMap(fine, coarse, config.width, config.name_stride)
        self.decoder = Decoder(config)
        self.mask_product = MaskProduct()
        mean = torch.tensor(config.image_mean).view(1, 3, 1, 1)
        std = torch.tensor(config.image_std).view(1, 3, 1, 1)
        self.register_buffer("text_mean", torch.zeros(config.text_dim))
        self.register_buffer("image_mean", mean, persistent=False)
        self.register_buffer("image_std", std, persistent=False)
        nn.init.orthogonal_(self.text_projection.weight)
        nn.init.zeros_(self.text_projection.bias)

    def forward(
        self,
        images_B3HW: Tensor,
        prompt: TextPrompt,
        *,
        keep: Sequence[int] | None = None,
        layers: int | None = None,
    ) -> ModelOutput:
        """Segment what the prompt asks for.

        Args:
            images_B3HW: RGB in 0..1; height and width are multiples of 32.
            prompt: names, an expression, or no column at all for every object.
            keep: queries kept for each layer; see :class:`mobius_seg.decoder.Decoder`.
            layers: number of decoder layers to run; None runs all.

        Raises:
            InputError: the height or width is not a multiple of 32, fewer than one query is kept,
                or more layers are asked for than there are.
        """
        self._check_plan(keep, layers)
        encoded = self.encode(images_B3HW, prompt)
        stages, dense = self.decoder(
            encoded.maps,
            encoded.names,
            encoded.text_BKC,
            encoded.column_mask_BK,
            self.object_column,
            keep=keep,
            layers=layers,
        )
        regions = None
        if prompt.vocabulary_VD is not None and encoded.names is not None:
            vocabulary_VC = self.project_names(prompt.vocabulary_VD)
            scale = self.decoder.heads.classifier.scale()
            regions = RegionOutput(encoded.names.names_BChw, vocabulary_VC, scale)
        features = encoded.mask_features_BMhw
        first_masks_BQhw = None
        if self.config.selection_masks and not self.training:
            first_masks_BQhw = self.mask_product(stages[0].mask_embed_BQM, features)
        return ModelOutput(stages, features, encoded.text_BKC, dense, regions, first_masks_BQhw)

    def project_names(self, names_KD: Tensor) -> Tensor:
        """Text vectors [K, D] as columns without fusion, L2-normalised [K, C]."""
        return unit(self.text_projection(self._centred(names_KD)).float())

    def encode(self, images_B3HW: Tensor, prompt: TextPrompt) -> Encoded:
        """Everything before the decoder: backbone, text, pixel decoder.

        Args:
            images_B3HW: RGB in 0..1; height and width are multiples of 32.
            prompt: what is asked for.

        Raises:
            InputError: the height or width is not a multiple of 32.
        """
        text_BTC, mask_BT = self.text_tokens(prompt)
        columns, column_mask_BK = prompt.pooled_BKD.shape[1], prompt.pooled_mask_BK
        return self.encode_tokens(images_B3HW, text_BTC, mask_BT, columns, column_mask_BK)

    def encode_tokens(
        self,
        images_B3HW: Tensor,
        text_BTC: Tensor,
        text_mask_BT: Tensor | None,
        columns: int,
        column_mask_BK: Tensor | None,
    ) -> Encoded:
        """The same from projected text, which a fixed vocabulary computes once.

        Args:
            images_B3HW: RGB in 0..1; height and width are multiples of 32.
            text_BTC: of :meth:`text_tokens`, like its mask.
            text_mask_BT: bool [B or 1, T], True = a real token; None = all.
            columns: K; these tokens follow the first.
            column_mask_BK: bool [B or 1, K], True = a real column; None = all.

        Raises:
            InputError: the height or width is not a multiple of 32.
        """
        height, width = images_B3HW.shape[2:]
        if height % 32 or width % 32:
            raise InputError(f"image is {height}x{width}; height and width must be multiples of 32")
        maps = self.backbone(self._normalized(images_B3HW))
        pixels = self.pixel_decoder(maps, text_BTC, text_mask_BT)
        text_BKC = unit(pixels.text_BTC[:, :columns].float())
        features = pixels.mask_features_BMhw
        names = None
        if self.name_map is not None:
            seen = self.name_map(maps[2], maps[3])
            names = NameEvidence.of(seen, features, self.config.name_stride)
        return Encoded(pixels.maps, features, names, text_BKC, column_mask_BK)

    def _normalized(self, images_B3HW: Tensor) -> Tensor:
        """What the backbone was trained on; graphs fold it into the weights (export/folding.py)."""
        for name, change in (("image_mean", torch.sub), ("image_std", torch.div)):
            value = self._buffers[name]
            images_B3HW = images_B3HW if value is None else change(images_B3HW, value)
        return images_B3HW

    def text_tokens(self, prompt: TextPrompt) -> tuple[Tensor, Tensor | None]:
        """Object token, pooled columns and sub-word tokens, projected, as one sequence.

        Args:
            prompt: what is asked for.

        Returns:
            [B or 1, T, C] and its mask, bool [B or 1, T] or None where all are real.
        """
        parts = [self._centred(prompt.pooled_BKD)]
        if prompt.tokens_BTD is not None:
            parts.append(prompt.tokens_BTD * self.config.text_dim**0.5)
        batch = max(part.shape[0] for part in parts)
        vectors = torch.cat([part.expand(batch, -1, -1) for part in parts], 1)
        tokens = self.text_projection(vectors)
        first = self.object_token.to(tokens.dtype).expand(batch, 1, -1)
        tokens = torch.cat([first, tokens], 1)
        masks = [prompt.pooled_mask_BK, prompt.tokens_mask_BT]
        if all(mask is None for mask in masks):
            return tokens, None
        joined = [tokens.new_ones(batch, 1, dtype=torch.bool)]
        for part, mask in zip(parts, masks[: len(parts)], strict=True):
            real = tokens.new_ones(1, part.shape[1], dtype=torch.bool) if mask is None else mask
            joined.append(real.expand(batch, -1))
        return tokens, torch.cat(joined, 1)

    @torch.no_grad()
    def fit_text(self, names_KD: Tensor) -> None:
        """Fit the text input to the names of a training: their mean, and their main directions.

        Text vectors share a large common part (the mean cosine of two unrelated names is 0.2 with
        MiniLM), which says nothing about the object: it is taken off. The projection starts at the
        principal directions of what remains, each divided by the root of its spread: as little as
        possible is lost to the width, and 128 channels keep a thousand names as far apart as 384
        dimensions did (mean cosine of the nearest name 0.59 and 0.58; 0.63 without the division).
        Few names say little about text: below :data:`_LEAST_NAMES` nothing changes.

        Args:
            names_KD: one L2-normalised vector a name, [K, D].
        """
        if len(names_KD) < _LEAST_NAMES:
            return
        self.get_buffer("text_mean").copy_(names_KD.mean(0))
        vectors_KD = self._centred(names_KD)
        _, spread_R, directions_RD = torch.linalg.svd(vectors_KD.double(), full_matrices=False)
        rows = min(len(self.text_projection.weight), int((spread_R > 1e-3 * spread_R[0]).sum()))
        gain_R = spread_R[:rows] ** -0.5
        gain_R *= (spread_R[:rows].square().sum() / spread_R[:rows].sum()).sqrt()
        self.text_projection.weight[:rows].copy_(gain_R[:, None] * directions_RD[:rows])

    def _centred(self, vectors: Tensor) -> Tensor:
        """Pooled text vectors less the mean of the training's names, at length sqrt(D)."""
        centred = unit(vectors - self.get_buffer("text_mean").to(vectors.dtype))
        length: float = self.config.text_dim**0.5
        return centred * length

    def _check_plan(self, keep: Sequence[int] | None, layers: int | None) -> None:
        """Reject counts of queries and layers that no decoder can run."""
        if keep is not None and any(count < 1 for count in keep):
            raise InputError(f"keep is {list(keep)}; allowed: counts of at least one query")
        depth = self.config.decoder_layers
        if layers is not None and not 0 <= layers <= depth:
            raise InputError(f"layers is {layers}; allowed: 0 to {depth}")
