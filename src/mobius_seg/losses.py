"""How the network learns: one criterion for every kind of sample (docs/model.md, "Losses").

Targets are padded to [B, M], so that a stage's loss is a handful of batched operations.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.calibration import (
    CLASS_LOSSES,
    ClassLoss,
    confidence_loss,
    name_contrast,
    synonym_weight,
)
from mobius_seg.data.sample import Target
from mobius_seg.errors import InputError
from mobius_seg.matcher import (
    MatchCosts,
    assign,
    box_iou_giou,
    cxcywh_to_xyxy,
    focal_cost,
    pairwise_dice_cost,
    pairwise_mask_cost,
)
from mobius_seg.points import (
    PointConfig,
    box_points,
    enlarged_corners,
    point_sample,
    sample_mask_points,
)
from mobius_seg.regions import region_loss
from mobius_seg.targets import PaddedTargets, pad_targets, repeat_targets
from mobius_seg.types import DenseOutput, LayerOutput, ModelOutput, TextPrompt


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and switches of the criterion.

    Attributes:
        classification: weight of the class loss (the same in matching), and so on for the others.
        mask: weight of the mask cross-entropy.
        dice: weight of the dice loss.
        box: weight of the L1 box loss.
        giou: weight of the GIoU loss.
        contrast: weight of the names' competition (``calibration.name_contrast``).
        regions: weight of the region loss (``regions.region_loss``); 0 leaves it out.
        dense: weight of the auxiliary dense loss; 0 leaves it out.
        dense_tokens: best tokens per object in the dense loss.
        class_loss: form of the class loss.
        gamma: power of the quality target and of the negatives' weight (MAL, 1.5).
        synonyms: push names that mean the same less (``calibration.synonym_weight``).
        points: where masks are compared.
    """

    classification: float = 4.0
    mask: float = 5.0
    dice: float = 5.0
    box: float = 5.0
    giou: float = 2.0
    contrast: float = 3.0
    regions: float = 3.0
    dense: float = 1.0
    dense_tokens: int = 6
    class_loss: ClassLoss = "mal"
    gamma: float = 1.5
    synonyms: bool = True
    points: PointConfig = field(default_factory=PointConfig)

    def __post_init__(self) -> None:
        """Reject an unknown class loss.

        Raises:
            InputError: names the field, the value and what is allowed.
        """
        if self.class_loss not in CLASS_LOSSES:
            raise InputError(
                f"LossConfig.class_loss is {self.class_loss!r}; allowed: {', '.join(CLASS_LOSSES)}"
            )


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
            ``quality`` (the mean u).
        """
        features = output.mask_features_BMhw.float()
        size = (features.shape[2] * 4, features.shape[3] * 4)
        padded = pad_targets(targets, prompt, size, features.device)
        if prompt.pooled_mask_BK is None:
            columns = torch.ones_like(padded.known_BK)
        else:
            columns = prompt.pooled_mask_BK.to(features.device).expand_as(padded.known_BK)
        normaliser = padded.valid_BM.sum().clamp(min=1).float()
        total = features.new_zeros(())
        parts: dict[str, Tensor] = {}
        for layer in output.layers:
            parts = self._stage(_as_float(layer), features, padded, columns, normaliser, generator)
            total = total + sum(
                (getattr(self.config, weight) * parts[name] for name, weight in _PARTS.items()),
                start=features.new_zeros(()),
            )
        if output.dense is not None and self.config.dense > 0:
            parts["dense"] = self._dense(output.dense, padded, columns, normaliser)
            total = total + self.config.dense * parts["dense"]
        if output.regions is not None and self.config.regions > 0:
            named = region_loss(output.regions, padded, prompt, self.config.synonyms)
            parts["regions"] = named / normaliser
            total = total + self.config.regions * parts["regions"]
        parts["loss"] = total
        return parts

    def _stage(
        self,
        layer: LayerOutput,
        features: Tensor,
        targets: PaddedTargets,
        columns_BK: Tensor,
        normaliser: Tensor,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """Match one stage and compare."""
        query_BM = self.match(layer, features, targets, generator)
        hit_BM = query_BM >= 0
        index = query_BM.clamp(min=0)[..., None]
        boxes = layer.boxes_BQ4.gather(1, index.expand(-1, -1, 4))
        embed = layer.mask_embed_BQM.gather(1, index.expand(-1, -1, layer.mask_embed_BQM.shape[2]))
        iou, giou = box_iou_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets.boxes_BM4))
        l1 = (boxes - targets.boxes_BM4).abs().sum(-1)
        logits_BMhw = torch.einsum("bnm,bmhw->bnhw", embed, features)
        bce, dice, mask_iou = self._mask_terms(logits_BMhw, targets, generator)
        masked_BM = hit_BM & targets.has_mask_B[:, None]
        quality = (iou.clamp(min=0) * mask_iou).sqrt()
        quality = torch.where(targets.has_mask_B[:, None], quality, iou.clamp(min=0)).detach()
        classification, contrast = self._class_terms(
            layer.logits_BQK, layer.object_logits_BQ, query_BM, quality, targets, columns_BK
        )
        return {
            "class": classification / normaliser,
            "contrast": contrast / normaliser,
            "mask": (bce * masked_BM).sum() / normaliser,
            "dice": (dice * masked_BM).sum() / normaliser,
            "box": (l1 * hit_BM).sum() / normaliser,
            "giou": ((1 - giou) * hit_BM).sum() / normaliser,
            "quality": (quality * hit_BM).sum() / hit_BM.sum().clamp(min=1),
        }

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

    def _mask_terms(
        self, logits_BMhw: Tensor, targets: PaddedTargets, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cross-entropy, dice loss and IoU of matched masks, each [B, M]."""
        batch, count = targets.valid_BM.shape
        flat = logits_BMhw.reshape(batch * count, 1, *logits_BMhw.shape[2:])
        wanted = targets.masks_BMHW.reshape(batch * count, 1, *targets.masks_BMHW.shape[2:])
        boxes = targets.boxes_BM4.reshape(-1, 4)
        points, in_box = sample_mask_points(flat.detach(), boxes, self.config.points, generator)
        logits_NP = point_sample(flat, points)[:, 0]
        labels_NP = point_sample(wanted, points)[:, 0]
        bce = F.binary_cross_entropy_with_logits(logits_NP, labels_NP, reduction="none").mean(-1)
        prob = logits_NP.sigmoid()
        overlap = 2 * (prob * labels_NP).sum(-1)
        dice = 1 - (overlap + 1) / (prob.sum(-1) + labels_NP.sum(-1) + 1)
        iou = _mask_iou(flat.detach(), logits_NP.detach(), labels_NP, boxes, in_box)
        shape = (batch, count)
        return bce.reshape(shape), dice.reshape(shape), iou.reshape(shape)

    def _class_terms(
        self,
        logits_BQK: Tensor,
        object_logits_BQ: Tensor,
        query_BM: Tensor,
        quality_BM: Tensor,
        targets: PaddedTargets,
        columns_BK: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Sums of the class loss (all columns and the object column) and of the contrast."""
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
        target[b, q] = u[:, None] * named
        positive = torch.zeros_like(logits_BQK, dtype=torch.bool)
        positive[b, q] = named
        loss = (self._confidence(logits_BQK, target, positive) * weight).sum()
        object_target = torch.zeros_like(object_logits_BQ)
        object_target[b, q] = u
        object_positive = torch.zeros_like(object_logits_BQ, dtype=torch.bool)
        object_positive[b, q] = True
        object_loss = self._confidence(object_logits_BQ, object_target, object_positive)
        trusted = targets.has_object_B[:, None] | object_positive
        contrast = name_contrast(logits_BQK[b, q], named, push).sum()
        return loss + (object_loss * trusted).sum(), contrast

    def _confidence(self, logits: Tensor, quality: Tensor, positive: Tensor) -> Tensor:
        return confidence_loss(logits, quality, positive, self.config.class_loss, self.config.gamma)

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
        )
        box = ((self.config.box * l1 + self.config.giou * (1 - giou)) * hit).sum()
        names = self.config.classification * classification + self.config.contrast * contrast
        share = hit.sum() / targets.valid_BM.sum().clamp(min=1)
        return (names + box) / (normaliser * share.clamp(min=1))

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
}


def _as_float(layer: LayerOutput) -> LayerOutput:
    """Losses are computed in float32 whatever the network ran in."""
    return LayerOutput(
        layer.logits_BQK.float(),
        layer.object_logits_BQ.float(),
        layer.boxes_BQ4.float(),
        layer.mask_embed_BQM.float(),
    )


def _mask_iou(
    logits_N1hw: Tensor, logits_NP: Tensor, labels_NP: Tensor, boxes_N4: Tensor, in_box: int
) -> Tensor:
    """IoU of the thresholded mask, [N]: from points in the enlarged box plus what lies outside it.

    Args:
        logits_N1hw: mask logits at stride 4.
        logits_NP: logits at the points, those drawn in the box first.
        labels_NP: labels at the points.
        boxes_N4: target boxes.
        in_box: number of points drawn uniformly in the enlarged box; 0 counts cells instead.
    """
    height, width = logits_N1hw.shape[2:]
    if in_box == 0:
        predicted, wanted = logits_NP > 0, labels_NP > 0.5
        both = (predicted & wanted).sum(-1)
        return both / (predicted | wanted).sum(-1).clamp(min=1)
    predicted, wanted = logits_NP[:, :in_box] > 0, labels_NP[:, :in_box] > 0.5
    both = (predicted & wanted).sum(-1).float()
    either = (predicted | wanted).sum(-1).float()
    low, high = enlarged_corners(boxes_N4)
    y = (torch.arange(height, device=low.device) + 0.5) / height
    x = (torch.arange(width, device=low.device) + 0.5) / width
    in_y = (y > low[:, 1:]) & (y < high[:, 1:])
    in_x = (x > low[:, :1]) & (x < high[:, :1])
    positive = logits_N1hw[:, 0] > 0
    outside = (positive & ~(in_y[:, :, None] & in_x[:, None, :])).sum((1, 2))
    area = (high - low).prod(-1).clamp(min=1e-6) * height * width
    return both / (either + outside * in_box / area).clamp(min=1.0)
