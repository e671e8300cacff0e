"""How the network learns: one criterion for every kind of sample (docs/model.md, "Losses").

Targets are padded to [B, M], so that a stage's loss is a handful of batched operations.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from mobius_seg.calibration import (
    answer_confidence,
    confidence_loss,
    name_contrast,
    synonym_weight,
)
from mobius_seg.data.sample import Target
from mobius_seg.final_targets import final_answers, final_index
from mobius_seg.loss_config import LossConfig
from mobius_seg.mask_losses import mask_terms
from mobius_seg.matcher import (
    MatchCosts,
    assign,
    box_iou_giou,
    cxcywh_to_xyxy,
    focal_cost,
    pairwise_dice_cost,
    pairwise_mask_cost,
)
from mobius_seg.points import box_points, point_sample
from mobius_seg.regions import region_loss
from mobius_seg.targets import PaddedTargets, pad_targets, repeat_targets
from mobius_seg.types import DenseOutput, LayerOutput, ModelOutput, TextPrompt
from mobius_seg.uncertainty import uncertainty_loss

__all__ = ["Criterion", "LossConfig"]


class Criterion(nn.Module):
    """All losses of a batch: every stage, and the auxiliary dense head.

    Args:
        config: weights and switches.
    """

    def __init__(self, config: LossConfig | None = None) -> None:
        """See the class."""
        super().__init__()
        self.config = config or LossConfig()
        self.costs = MatchCosts(
            classification=self.config.classification,
            mask=self.config.mask,
            dice=self.config.dice,
            box=self.config.box,
            giou=self.config.giou,
        )

    def forward(
        self,
        output: ModelOutput,
        targets: list[Target],
        prompt: TextPrompt,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            output: of the network in training mode.
            targets: one per image.
            prompt: what the network was asked.
            generator: source of the sampled points, on the CPU.

        Returns:
            ``loss`` (the weighted sum) and its parts: ``dense``, ``regions`` and, unweighted and of
            the last layer, ``class``, ``contrast``, ``mask``, ``dice``, ``box``, ``giou`` and
            ``quality`` (the mean u of targets with masks); ``uncertainty`` where the model has that
            head.
        """
        features = output.mask_features_BMhw.float()
        size = (features.shape[2] * 4, features.shape[3] * 4)
        padded = pad_targets(targets, prompt, size, features.device)
        if prompt.pooled_mask_BK is None:
            columns = torch.ones_like(padded.known_BK)
        else:
            columns = prompt.pooled_mask_BK.to(features.device).expand_as(padded.known_BK)
        normaliser = mean_count(padded.valid_BM.sum().float()).clamp(min=1)
        total = features.new_zeros(())
        parts: dict[str, Tensor] = {}
        layers = [_as_float(layer) for layer in output.layers]
        stages = [self._shape_terms(x, features, padded, normaliser, generator) for x in layers]
        answers = self._answers(layers, [stage[:2] for stage in stages], padded)
        for layer, answer, (_, _, shapes) in zip(layers, answers, stages, strict=True):
            parts = self._name_terms(layer, answer, columns, normaliser) | shapes
            total = total + sum(
                (
                    getattr(self.config, _PARTS[name]) * parts[name]
                    for name in _PARTS
                    if name in parts
                ),
                start=features.new_zeros(()),
            )
        if output.dense is not None and self.config.dense > 0:
            parts["dense"] = self._dense(output.dense, padded, columns, normaliser)
            total = total + self.config.dense * parts["dense"]
        if output.regions is not None and self.config.regions > 0:
            named = region_loss(
                output.regions,
                padded,
                prompt,
                synonyms=self.config.synonyms,
                pull=self.config.pull,
            )
            parts["regions"] = named / normaliser
            total = total + self.config.regions * parts["regions"]
        parts["loss"] = total
        return parts

    def _shape_terms(
        self,
        layer: LayerOutput,
        features: Tensor,
        targets: PaddedTargets,
        normaliser: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Match one stage and compare boxes and masks: query and quality of each target, terms."""
        query_BM = self.match(layer, features, targets, generator)
        hit_BM = query_BM >= 0
        index = query_BM.clamp(min=0)[..., None]
        boxes = layer.boxes_BQ4.gather(1, index.expand(-1, -1, 4))
        embed = layer.mask_embed_BQM.gather(1, index.expand(-1, -1, layer.mask_embed_BQM.shape[2]))
        iou, giou = box_iou_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets.boxes_BM4))
        l1 = (boxes - targets.boxes_BM4).abs().sum(-1)
        logits_BMhw = torch.einsum("bnm,bmhw->bnhw", embed, features)
        support_BM = None
        if self.config.region_weighting:
            support_BM = answer_confidence(layer, query_BM, targets.columns_BMK)
        bce, dice, mask_iou = mask_terms(
            logits_BMhw,
            targets.masks_BMHW,
            targets.boxes_BM4,
            self.config.points,
            generator,
            support_BM,
        )
        masked_BM = hit_BM & targets.has_mask_B[:, None]
        quality = (iou.clamp(min=0) * mask_iou).sqrt().detach()
        terms = {
            "mask": (bce * masked_BM).sum() / normaliser,
            "dice": (dice * masked_BM).sum() / normaliser,
            "box": (l1 * hit_BM).sum() / normaliser,
            "giou": ((1 - giou) * hit_BM).sum() / normaliser,
            "quality": (quality * masked_BM).sum() / masked_BM.sum().clamp(min=1),
        }
        return query_BM, quality, terms

    def _answers(
        self,
        layers: list[LayerOutput],
        own: list[tuple[Tensor, Tensor]],
        targets: PaddedTargets,
    ) -> list[tuple[Tensor, Tensor, PaddedTargets]]:
        """What each stage's confidence learns: query and quality of each target, and these."""
        if self.config.calibration_target == "own":
            return [(query_BM, quality_BM, targets) for query_BM, quality_BM in own]
        return [
            final_answers(index_BQ, mine, own[-1], targets)
            for index_BQ, mine in zip(final_index(layers), own, strict=True)
        ]

    def _name_terms(
        self,
        layer: LayerOutput,
        answer: tuple[Tensor, Tensor, PaddedTargets],
        columns_BK: Tensor,
        normaliser: Tensor,
    ) -> dict[str, Tensor]:
        """The terms of one stage's confidence."""
        query_BM, quality_BM, targets = answer
        classification, contrast = self._class_terms(
            layer.logits_BQK,
            layer.object_logits_BQ,
            query_BM,
            quality_BM,
            targets,
            columns_BK,
            targets.has_mask_B,
        )
        terms = {"class": classification / normaliser, "contrast": contrast / normaliser}
        if layer.quality_logits_BQ is not None:
            loss = uncertainty_loss(layer, query_BM, quality_BM, targets, columns_BK)
            terms["uncertainty"] = loss / normaliser
        return terms

    @torch.no_grad()
    def match(
        self,
        layer: LayerOutput,
        features: Tensor,
        targets: PaddedTargets,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Query of each target.

        Args:
            layer: one stage's predictions.
            features: mask features [B, M, h, w].
            targets: padded targets.
            generator: source of the points.

        Returns:
            int64 [B, M], -1 where there is none; see :func:`mobius_seg.matcher.assign`.
        """
        named = targets.columns_BMK.float()
        cost = torch.matmul(focal_cost(layer.logits_BQK), named.transpose(1, 2))
        cost = cost + focal_cost(layer.object_logits_BQ)[..., None]
        cost = self.costs.classification * cost / (named.sum(-1)[:, None, :] + 1)
        predicted, wanted = layer.boxes_BQ4[:, :, None], targets.boxes_BM4[:, None]
        _, giou = box_iou_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        cost = cost + self.costs.box * (predicted - wanted).abs().sum(-1) - self.costs.giou * giou
        points = self._match_points(targets, generator)
        sampled = point_sample(features, points)
        logits = torch.matmul(layer.mask_embed_BQM, sampled)
        labels = point_sample(targets.masks_BMHW, points)
        mask_cost = self.costs.mask * pairwise_mask_cost(logits, labels)
        mask_cost = mask_cost + self.costs.dice * pairwise_dice_cost(logits, labels)
        return assign(cost + mask_cost * targets.has_mask_B[:, None, None], targets.valid_BM)

    def _match_points(self, targets: PaddedTargets, generator: torch.Generator | None) -> Tensor:
        """Points [B, P, 2] shared by an image's queries: uniform ones and some in every target."""
        config = self.config.points
        batch = targets.valid_BM.shape[0]
        device = targets.boxes_BM4.device
        uniform = torch.rand(batch, config.match_uniform, 2, generator=generator).to(device)
        if not config.match_per_target:
            return uniform
        inside = box_points(targets.boxes_BM4, config.match_per_target, generator, enlarge=1.2)
        return torch.cat([uniform, inside.reshape(batch, -1, 2)], 1)

    def _class_terms(
        self,
        logits_BQK: Tensor,
        object_logits_BQ: Tensor,
        query_BM: Tensor,
        quality_BM: Tensor,
        targets: PaddedTargets,
        columns_BK: Tensor,
        scored_B: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Sums of the class loss (all columns and the object column) and of the contrast.

        Images whose qualities are not known (``scored_B``) learn plain focal loss.
        """
        hit_BM = query_BM >= 0
        b, m = hit_BM.nonzero(as_tuple=True)
        q = query_BM[b, m]
        weight = columns_BK[:, None] & targets.known_BK[:, None]
        weight = weight.expand_as(logits_BQK).to(logits_BQK.dtype).clone()
        target = torch.zeros_like(logits_BQK)
        named = targets.columns_BMK[b, m]
        push = (columns_BK & targets.known_BK)[b].to(weight.dtype)
        if self.config.synonyms:
            push = push * synonym_weight(targets.similarity_BMK[b, m])
        weight[b, q] = torch.where(named, torch.ones_like(push), push)
        u = quality_BM[b, m]
        plain_B1 = ~scored_B[:, None]
        target[b, q] = u[:, None] * named
        positive = torch.zeros_like(logits_BQK, dtype=torch.bool)
        positive[b, q] = named
        loss_BQK = self._confidence(logits_BQK, target, positive, plain_B1[..., None])
        object_target = torch.zeros_like(object_logits_BQ)
        object_target[b, q] = u
        object_positive = torch.zeros_like(object_logits_BQ, dtype=torch.bool)
        object_positive[b, q] = True
        object_loss = self._confidence(object_logits_BQ, object_target, object_positive, plain_B1)
        trusted = targets.has_object_B[:, None] | object_positive
        contrast = name_contrast(logits_BQK[b, q], named, push).sum()
        return (loss_BQK * weight).sum() + (object_loss * trusted).sum(), contrast

    def _confidence(
        self, logits: Tensor, quality: Tensor, positive: Tensor, plain: Tensor
    ) -> Tensor:
        """The configured form of the confidence loss; focal where ``plain`` says so."""
        kind, gamma = self.config.class_loss, self.config.gamma
        loss = confidence_loss(logits, quality, positive, kind, gamma)
        if kind == "focal" or not bool(plain.any()):
            return loss
        return torch.where(plain, confidence_loss(logits, quality, positive, "focal"), loss)

    def _dense(
        self,
        dense: DenseOutput,
        targets: PaddedTargets,
        columns_BK: Tensor,
        normaliser: Tensor,
    ) -> Tensor:
        """One-to-many loss on the tokens: the best few tokens of each object answer for it."""
        boxes = dense.boxes_BN4.float()
        objects = dense.object_logits_BN.float()
        token_BM6 = self.dense_assign(dense, targets)
        best = token_BM6.shape[2]
        query_BM = token_BM6.flatten(1)
        spread = repeat_targets(targets, best)
        index = query_BM.clamp(min=0)[..., None].expand(-1, -1, 4)
        picked = boxes.gather(1, index)
        iou, giou = box_iou_giou(cxcywh_to_xyxy(picked), cxcywh_to_xyxy(spread.boxes_BM4))
        l1 = (picked - spread.boxes_BM4).abs().sum(-1)
        hit = query_BM >= 0
        classification, contrast = self._class_terms(
            dense.logits_BNK.float(),
            objects,
            query_BM,
            iou.clamp(min=0).detach(),
            spread,
            columns_BK,
            torch.ones_like(targets.has_mask_B),  # this u is the box's alone
        )
        box = ((self.config.box * l1 + self.config.giou * (1 - giou)) * hit).sum()
        names = self.config.classification * classification + self.config.contrast * contrast
        # Tokens assigned, by the same mean over the processes as the normaliser.
        return (names + box) / torch.maximum(normaliser, mean_count(hit.sum().float()))

    @torch.no_grad()
    def dense_assign(self, dense: DenseOutput, targets: PaddedTargets) -> Tensor:
        """Tokens of each target by predicted IoU, confidence and nearness; a token has one target.

        Args:
            dense: predictions on the tokens.
            targets: padded targets.

        Returns:
            int64 [B, M, ``dense_tokens``], -1 where there is none.
        """
        wanted = targets.boxes_BM4[:, :, None]
        predicted = cxcywh_to_xyxy(dense.boxes_BN4.float())[:, None]
        iou, _ = box_iou_giou(cxcywh_to_xyxy(wanted), predicted)
        side = wanted[..., 2:].clamp(min=1e-3)
        offset = (dense.centers_N2[None, None] - wanted[..., :2]) / side
        far = offset.abs().amax(-1)
        confidence = dense.object_logits_BN.float().sigmoid()[:, None]
        score = iou + 0.5 * confidence - far - 10.0 * (far > 0.5)
        score = score.masked_fill(~targets.valid_BM[..., None], float("-inf"))
        owner = score.argmax(1)
        best = min(self.config.dense_tokens, score.shape[2])
        mine = owner[:, None] == torch.arange(score.shape[1], device=score.device)[None, :, None]
        value, token = score.masked_fill(~mine, float("-inf")).topk(best, dim=2)
        near = value > -3.0
        near[..., 0] = value[..., 0] > float("-inf")
        return torch.where(near, token, torch.full_like(token, -1))


_PARTS = {
    "class": "classification",
    "contrast": "contrast",
    "mask": "mask",
    "dice": "dice",
    "box": "box",
    "giou": "giou",
    "uncertainty": "uncertainty",
}


def mean_count(count: Tensor) -> Tensor:
    """Mean of a count over the processes of a distributed training; the count itself without one.

    Gradients are averaged over processes, so sums divided by this mean give every object the same
    weight, however unevenly the objects fall on the processes (DETR, Carion et al. 2020).
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return count
    total = count.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def _as_float(layer: LayerOutput) -> LayerOutput:
    """Losses are computed in float32 whatever the network ran in."""
    quality = layer.quality_logits_BQ
    return replace(
        layer,
        logits_BQK=layer.logits_BQK.float(),
        object_logits_BQ=layer.object_logits_BQ.float(),
        boxes_BQ4=layer.boxes_BQ4.float(),
        mask_embed_BQM=layer.mask_embed_BQM.float(),
        quality_logits_BQ=None if quality is None else quality.float(),
    )
