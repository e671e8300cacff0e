"""The module that is exported: a picture in 0..1 in, scores, objectness, boxes and masks out.

Shapes: B pictures, K names, D text width, Q queries that the last layer keeps, T text tokens.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.calibration import name_scores, stage_confidence, with_quality
from mobius_seg.errors import InputError
from mobius_seg.export.folding import with_folded_normalization, with_gates_as_convolutions
from mobius_seg.export.padding import with_constant_padding
from mobius_seg.export.spec import IMAGE, TEXT
from mobius_seg.export.windows import low_rank_windows, with_low_rank_merging
from mobius_seg.fusion import SharedTextFusion, TextFusion, TextSide
from mobius_seg.model import Mobius
from mobius_seg.pruning import PruningPolicy
from mobius_seg.types import Encoded, LayerOutput, TextPrompt

Found = tuple[Tensor, Tensor, Tensor, Tensor]


class BakedFusion(nn.Module):
    """A fusion whose text side is a constant.

    Args:
        fusion: of the network.
        text_BTC: the text tokens, [1, T, C].
    """

    def __init__(self, fusion: TextFusion | SharedTextFusion, text_BTC: Tensor) -> None:
        """See the class."""
        super().__init__()
        self.fusion = fusion
        for name, value in fusion.text_side(text_BTC)._asdict().items():
            self.register_buffer(name, value.detach().clone())

    def forward(
        self, image_BNC: Tensor, _text_BTC: Tensor, text_mask_BT: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Arguments and results as of :class:`mobius_seg.fusion.TextFusion`."""
        side = TextSide(*(self.get_buffer(name) for name in TextSide._fields))
        return self.fusion.meet(image_BNC, side, text_mask_BT)


class ExportGraph(nn.Module):
    """The network under a static schedule, as one module of tensors.

    Pruned queries leave: each layer has as many as the schedule says, and masks are computed for
    those of the last.

    Args:
        network: copied, in evaluation mode.
        policy: full or static.
        prompt: what is asked for, whose text side becomes constants; without columns every object
            is. None makes the text vectors an input.
        padded: rows of zeros in that input are no names: nothing reads them and they score 0, so
            that a graph of fixed shapes answers any number of names up to its own.

    Raises:
        InputError: the policy is adaptive, the prompt is no single one, or the text is to be an
            input of a network that fuses sub-words.
    """

    def __init__(
        self,
        network: Mobius,
        policy: PruningPolicy,
        prompt: TextPrompt | None,
        *,
        padded: bool = False,
    ) -> None:
        """See the class."""
        super().__init__()
        if policy.form == "adaptive":
            raise InputError("an adaptive policy looks at each picture; no fixed graph can hold it")
        self.network = copy.deepcopy(network).float().eval().requires_grad_(False)
        with_constant_padding(self.network)
        with_low_rank_merging(self.network)
        with_folded_normalization(self.network)
        with_gates_as_convolutions(self.network)
        self.policy = policy
        self.dynamic = prompt is None
        self.padded = padded and self.dynamic
        self.columns = 0
        if prompt is None:
            if network.config.fuse_subwords:
                raise InputError(
                    f"{network.config.name} fuses the sub-words of names, so its vocabulary cannot"
                    " be an input; give --names"
                )
            self.eval()
            return
        if prompt.pooled_mask_BK is not None or prompt.pooled_BKD.shape[0] != 1:
            raise InputError("a graph holds one prompt, the same for every picture")
        self.columns = prompt.pooled_BKD.shape[1]
        with torch.no_grad():
            tokens_BTC, _ = self.network.text_tokens(prompt)
            pixels = self.network.pixel_decoder
            pixels.add_module("fuse", BakedFusion(pixels.fuse, tokens_BTC))
        self.register_buffer("tokens", tokens_BTC.detach().clone())
        self.eval()

    def forward(self, image: Tensor, text: Tensor | None = None) -> Found:
        """Segment.

        Args:
            image: float32 [B, 3, H, W], RGB in 0..1; height and width are multiples of 32.
            text: float32 [K, D], pooled vectors of the names, L2-normalised; only where the
                vocabulary is an input.

        Returns:
            ``scores`` [B, Q, K] of each name in 0..1 (K = 1 for every object), ``objectness``
            [B, Q] in 0..1, ``boxes`` [B, Q, 4] cxcywh in 0..1 of the input, ``masks``
            [B, Q, H / 4, W / 4] logits.
        """
        encoded = self.encode(image, text)
        out = self._decode(encoded)
        alpha = self.network.config.objectness_weight
        objectness_BQ = out.object_logits_BQ.sigmoid()
        scores_BQK = objectness_BQ[..., None]
        if self.dynamic or self.columns:
            mask_BK = encoded.column_mask_BK
            scores_BQK = name_scores(out.logits_BQK, out.object_logits_BQ, mask_BK, alpha)
        scores_BQK = with_quality(scores_BQK, out.quality_logits_BQ)
        features_BMhw = encoded.mask_features_BMhw
        masks_BQN = torch.matmul(out.mask_embed_BQM, features_BMhw.flatten(2))
        batch, queries = masks_BQN.shape[:2]
        masks_BQhw = masks_BQN.reshape(batch, queries, *features_BMhw.shape[2:])
        return scores_BQK, objectness_BQ, out.boxes_BQ4, masks_BQhw

    def encode(self, image: Tensor, text: Tensor | None) -> Encoded:
        """Everything before the decoder; arguments as of :meth:`forward`."""
        if self.dynamic:
            assert text is not None, "the vocabulary is an input of this graph"
            mask_BK = (text.abs().amax(-1) > 0)[None] if self.padded else None
            return self.network.encode(image, TextPrompt(text[None], mask_BK))
        tokens_BTC = self.get_buffer("tokens")
        return self.network.encode_tokens(image, tokens_BTC, None, self.columns, None)

    def _decode(self, encoded: Encoded) -> LayerOutput:
        """The stages of :mod:`mobius_seg.pruned_decoder` under a static policy; the last one."""
        network, decoder = self.network, self.network.decoder
        names, text_BKC, object_C = encoded.names, encoded.text_BKC, network.object_column
        mask_BK = encoded.column_mask_BK
        most = self.policy.cap(1, network.config.queries)
        query, out, _ = decoder.select(encoded.maps, names, text_BKC, mask_BK, object_C, most)
        boxes_BQ4, memory = out.boxes_BQ4, None
        for i in range(self.policy.depth(len(decoder.layers))):
            count = self.policy.cap(i + 1, query.shape[1])
            if i and count < query.shape[1]:
                query, boxes_BQ4 = self._keep(query, boxes_BQ4, out, mask_BK, count)
            memory = decoder.memory_for(i, encoded.maps, memory)
            query, out = decoder.advance(
                i, query, boxes_BQ4, memory, names, text_BKC, object_C, mask_BK
            )
            boxes_BQ4 = out.boxes_BQ4
        return out

    def _keep(
        self,
        query_BQC: Tensor,
        boxes_BQ4: Tensor,
        out: LayerOutput,
        mask_BK: Tensor | None,
        count: int,
    ) -> tuple[Tensor, Tensor]:
        """The most confident queries, best first: nothing that follows asks for an order."""
        score_BQ = stage_confidence(out, mask_BK, self.network.config.objectness_weight)
        index_BQ1 = score_BQ.topk(count, dim=1).indices[..., None]
        return (
            query_BQC.gather(1, index_BQ1.expand(-1, -1, query_BQC.shape[2])),
            boxes_BQ4.gather(1, index_BQ1.expand(-1, -1, 4)),
        )


def example_inputs(
    graph: ExportGraph, height: int, width: int, *, batch: int = 2, names: int = 3
) -> tuple[Tensor, ...]:
    """Inputs of these sizes from a fixed seed: ``image``, and ``text`` where it is an input.

    Args:
        graph: for the width of its text.
        height: in pixels, a multiple of 32.
        width: likewise.
        batch: B.
        names: K, where the vocabulary is an input.
    """
    generator = torch.Generator().manual_seed(0)
    device = graph.network.object_column.device
    image = torch.rand(batch, 3, height, width, generator=generator).to(device)
    if not graph.dynamic:
        return (image,)
    text = torch.randn(names, graph.network.config.text_dim, generator=generator).to(device)
    return image, F.normalize(text, dim=-1)


def program_shapes(
    graph: ExportGraph, *, dynamic_batch: bool = True, dynamic_size: bool = False
) -> dict[str, dict[int, object]]:
    """Dimensions of the inputs that vary, as ``torch.export`` takes them.

    Args:
        graph: what is exported.
        dynamic_batch: B is any.
        dynamic_size: height and width are any multiples of 32.
    """
    image: dict[int, object] = {}
    if dynamic_batch:
        image[0] = torch.export.Dim("batch", min=1, max=1024)
    if dynamic_size:
        image[2] = 32 * torch.export.Dim("rows", min=1, max=256)
        image[3] = 32 * torch.export.Dim("columns", min=1, max=256)
    names: dict[int, object] = {0: torch.export.Dim("names", min=1, max=65536)}
    return {IMAGE: image, TEXT: names} if graph.dynamic else {IMAGE: image}


def make_program(
    graph: ExportGraph,
    height: int,
    width: int,
    *,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    names: int | None = None,
) -> torch.export.ExportedProgram:
    """The graph as torch's exported program, operators not yet decomposed.

    Args:
        graph: what is exported.
        height: in pixels, a multiple of 32; an example where the size is dynamic.
        width: likewise.
        dynamic_batch: B is any; otherwise 1.
        dynamic_size: height and width are any multiples of 32.
        names: K, where the vocabulary is an input of a fixed length; None for any.
    """
    batch = 2 if dynamic_batch else 1
    inputs = example_inputs(graph, height, width, batch=batch, names=names or 3)
    shapes = program_shapes(graph, dynamic_batch=dynamic_batch, dynamic_size=dynamic_size)
    if names is not None and graph.dynamic:
        shapes[TEXT] = {}
    with torch.no_grad(), low_rank_windows():
        return torch.export.export(graph, inputs, dynamic_shapes=shapes, strict=False)
