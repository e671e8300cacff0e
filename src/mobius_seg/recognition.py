"""A second opinion on names: what an ImageNet classifier says of each object, cut out on grey.

The network learns names from composed scenes; a classifier knows photographs of a thousand classes.
Its probabilities for an object become a text vector: the mean of the vectors of its best classes'
names, weighted by them (ConSE, Norouzi et al. 2014, arXiv 1312.5650), which is compared with any
names that are asked for. The answer moves a query's score from name to name and leaves its best
score as it is, so that thresholds, score maps, duplicates and what is pruned stay what they are.

Shapes: N objects, P classes, K names, D text width, S side of a crop.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mobius_seg.crops import cut_outs
from mobius_seg.errors import InputError
from mobius_seg.imagenet import (
    CLASSES,
    MEAN,
    SCALE,
    SIDE,
    class_names,
    load_classifier,
    new_classifier,
)
from mobius_seg.model import Mobius
from mobius_seg.prompts import Prompt, pooled_vectors
from mobius_seg.text_cache import BUNDLED_CLASSES, read_names
from mobius_seg.text_features import TextEncoder

BY_DEFAULT = False
"""Whether objects are recognised where ``recognise`` is None (docs/recognition.md: why not)."""
CROPS = 10
"""Objects of a picture that are looked at, best first; the others keep the network's names."""
TOP = 20
"""Classes that an object's vector is made of."""
MARGIN = 1.1
"""Side of a crop, in longer sides of the mask's box."""
WEIGHT = 24.0
"""Factor of the cosine in :func:`mix`, for a classifier that is sure and a network that is not."""


class Recogniser:
    """Names objects by a classifier's probabilities.

    Args:
        classifier: crops float [N, 3, S, S] to logits [N, P], in evaluation mode.
        classes_PD: text vectors of the names of its classes.
        mean_D: mean of the training's names, which every vector loses before it is compared, as
            inside the network.
        encoder: of the names that are asked for; None where it is only counted.
        side: S in pixels.
    """

    def __init__(
        self,
        classifier: nn.Module,
        classes_PD: Tensor,
        mean_D: Tensor,
        encoder: TextEncoder | None,
        side: int = SIDE,
    ) -> None:
        """See the class."""
        weight = next(classifier.parameters())
        self._classifier = classifier
        self._like = weight
        self._mean_D = mean_D.detach().float().to(weight.device)
        self._classes_PD = centred(classes_PD.float().to(weight.device), self._mean_D)
        self._encoder = encoder
        self._side = side
        self._known: tuple[tuple[str, ...], Tensor] | None = None

    def rename(
        self,
        scores_QK: Tensor,
        mask_of: Mapping[int, dict[str, Any]],
        prob_Q: Tensor,
        picture: NDArray[np.uint8],
        texts: Sequence[str],
    ) -> Tensor:
        """Scores of one picture's queries after the classifier was heard.

        Args:
            scores_QK: before any map; they are not changed.
            mask_of: query -> its mask in the picture as RLE, best first; the first ``CROPS`` are
                looked at.
            prob_Q: the network's probability of each query's best name, without objectness.
            picture: uint8 RGB [H, W, 3].
            texts: the K names.

        Returns:
            [Q, K]; a query's best score is the one that it had.
        """
        seen = list(mask_of)[:CROPS]
        prob_NP = self.probabilities(picture, [mask_of[query] for query in seen])
        cosine_NK = self.compare(prob_NP, self._names(texts))
        rows = torch.tensor(seen, device=scores_QK.device)
        trust_N = (certainty(prob_NP).to(scores_QK), prob_Q[rows].to(scores_QK))
        mixed_NK = mix(scores_QK[rows], cosine_NK.to(scores_QK), *trust_N)
        renamed_QK = scores_QK.clone()
        renamed_QK[rows] = mixed_NK
        return renamed_QK

    def probabilities(self, picture: NDArray[np.uint8], rles: Sequence[dict[str, Any]]) -> Tensor:
        """What the classifier says of objects of a picture: float32 [N, P], rows add up to 1.

        Args:
            picture: uint8 RGB [H, W, 3].
            rles: their masks, not empty.
        """
        crops = torch.from_numpy(cut_outs(picture, rles, self._side, MARGIN))
        return self.classify(crops.permute(0, 3, 1, 2).to(self._like) / 255)

    def classify(self, crops_N3SS: Tensor) -> Tensor:
        """The same of crops in 0..1, in the classifier's precision and on its device."""
        logits_NP: Tensor = self._classifier((crops_N3SS - MEAN) / SCALE)
        return logits_NP.float().softmax(-1)

    def compare(self, prob_NP: Tensor, names_KD: Tensor) -> Tensor:
        """Cosine of each object's text vector (ConSE) and each name: [N, K].

        Args:
            prob_NP: of :meth:`probabilities`.
            names_KD: of :func:`centred`.
        """
        best_NT, class_NT = prob_NP.topk(min(TOP, prob_NP.shape[1]), dim=-1)
        mean_N1D = torch.bmm(best_NT[:, None], self._classes_PD[class_NT])
        objects_ND = F.normalize(mean_N1D[:, 0], dim=-1)
        return torch.matmul(objects_ND, names_KD.T)

    def crop_macs(self, columns: int) -> int:
        """Multiply-accumulates of recognising one object among K names.

        Args:
            columns: K.
        """
        classes, width = self._classes_PD.shape
        return self._classifier_macs + width * (min(TOP, classes) + columns)

    @cached_property
    def _classifier_macs(self) -> int:
        from mobius_seg.cost.dispatch import count_module

        counted = copy.deepcopy(self._classifier).to("meta")
        crop_13SS = torch.empty(1, 3, self._side, self._side, device="meta")
        return count_module(counted, crop_13SS.to(self._like.dtype))

    @property
    def parameters(self) -> int:
        """Number of parameters of the classifier."""
        return sum(parameter.numel() for parameter in self._classifier.parameters())

    def _names(self, texts: Sequence[str]) -> Tensor:
        """Vectors of the names [K, D], centred; those of the last prompt are kept."""
        asked = tuple(texts)
        if self._known is None or self._known[0] != asked:
            assert self._encoder is not None
            vectors_KD = pooled_vectors(self._encoder, asked).float().to(self._mean_D.device)
            self._known = (asked, centred(vectors_KD, self._mean_D))
        return self._known[1]


def mix(scores_NK: Tensor, cosine_NK: Tensor, certainty_N: Tensor, network_N: Tensor) -> Tensor:
    """Scores of names after a second opinion: s' = max(s) * m / max(m), m = s * exp(w * cos).

    w = ``WEIGHT`` * u^2 * (1 - p)^3 falls to nothing where the classifier guesses (u) and where the
    network is sure (p), as it is of many names that it was trained on. So nothing has to be known
    about which those are. The best score stays, whoever's name it is now.

    Args:
        scores_NK: of the network, in 0..1.
        cosine_NK: of object and name.
        certainty_N: u in 0..1, of :func:`certainty`.
        network_N: p in 0..1, the network's probability of its best name.
    """
    weight_N = WEIGHT * certainty_N**2 * (1 - network_N) ** 3
    power_NK = weight_N[:, None] * cosine_NK
    m_NK = scores_NK * (power_NK - power_NK.amax(-1, keepdim=True)).exp()
    share_NK = m_NK / m_NK.amax(-1, keepdim=True).clamp(min=torch.finfo(m_NK.dtype).tiny)
    return scores_NK.amax(-1, keepdim=True) * share_NK


def certainty(prob_NP: Tensor) -> Tensor:
    """How sure a classifier is: 1 - entropy / log P, 0 for a guess and 1 for one class. [N].

    Args:
        prob_NP: rows that add up to 1.
    """
    log_NP = prob_NP.clamp(min=torch.finfo(prob_NP.dtype).tiny).log()
    entropy_N = -(prob_NP * log_NP).sum(-1)
    return 1 - entropy_N / math.log(prob_NP.shape[1])


def centred(vectors_KD: Tensor, mean_D: Tensor) -> Tensor:
    """Vectors of unit length without a mean: what all names share says nothing about an object."""
    return F.normalize(vectors_KD - mean_D, dim=-1)


def load_recogniser(network: Mobius, encoder: TextEncoder) -> Recogniser:
    """The recogniser of a network, on its device and in its precision.

    Args:
        network: gives the mean of its training's names.
        encoder: of the names; those of the classes are read from a file of the package where it is
            the default one, and encoded (and cached) where it is another.

    Raises:
        InputError: the classifier's package is not there, or holds other weights.
    """
    names, known = class_names(), read_names(BUNDLED_CLASSES, encoder.identity)
    if not known:
        known = dict(zip(names, encoder.encode(names).pooled_KD, strict=True))
    weight = next(network.parameters())
    classifier = load_classifier().to(weight)
    classes_PD = torch.stack([known[name] for name in names])
    return Recogniser(classifier, classes_PD, network.get_buffer("text_mean"), encoder)


def meta_recogniser(text_dim: int) -> Recogniser:
    """A recogniser without memory or weights, for counting.

    Args:
        text_dim: D.
    """
    with torch.device("meta"):
        classes_PD, mean_D = torch.empty(CLASSES, text_dim), torch.empty(text_dim)
        return Recogniser(new_classifier(), classes_PD, mean_D, None)


def wants_recognition(recognise: object, prompts: Sequence[Prompt]) -> bool:
    """Whether a call is to recognise objects.

    Args:
        recognise: True, False, or None for the default, which concerns names alone.
        prompts: of the call, all of one kind.

    Raises:
        InputError: it is none of the three, or True where no names are asked for.
    """
    named = any(prompt.names is not None for prompt in prompts)
    if recognise is None:
        return BY_DEFAULT and named
    if not isinstance(recognise, bool):
        raise InputError(f"recognise is {recognise!r:.60}; allowed: True, False or None")
    if recognise and prompts and not named:
        raise InputError("recognise is for names; allowed with an expression or without: False")
    return recognise and named
