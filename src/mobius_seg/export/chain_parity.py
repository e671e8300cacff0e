"""What a chain of segments says against the package's own adaptive pruning.

The reference decodes the same pictures with :func:`mobius_seg.pruned_decoder.run_pruned` in torch.
"""

from typing import Any

import numpy as np
import torch

from mobius_seg.calibration import name_scores, with_quality
from mobius_seg.export.chain import ChainSession
from mobius_seg.export.graph import ExportGraph
from mobius_seg.export.parity import compare
from mobius_seg.export.session import Array
from mobius_seg.pruned_decoder import run_pruned

NAME_COUNTS = (5, 80)
THRESHOLDS = (0.05, 0.3)
"""Scores below which nothing is asked for: floors depend on them."""


def chain_cases(
    graph: ExportGraph, session: ChainSession, images_B3HW: Array, texts_KD: Array | None
) -> list[dict[str, Any]]:
    """Each picture alone, at each threshold and count of names.

    Args:
        graph: whose network the chain was cut from.
        session: the chain.
        images_B3HW: pictures.
        texts_KD: vectors of names; None where names are fixed.

    Returns:
        As :func:`mobius_seg.export.parity.tensor_cases`, and ``threshold``, ``picture``,
        ``queries`` of each stage and ``receipt``: whether both ran the same.
    """
    rows = []
    for count in (None,) if texts_KD is None else NAME_COUNTS:
        text_KD = None if texts_KD is None else texts_KD[:count]
        for threshold in THRESHOLDS:
            for picture in range(len(images_B3HW)):
                image_13HW = images_B3HW[picture : picture + 1]
                found = session.run_one(image_13HW, text_KD, threshold=threshold)
                ours, queries = reference(graph, session, image_13HW, text_KD, threshold)
                rows.append(
                    {
                        "names": ours["scores"].shape[2],
                        "batch": 1,
                        "picture": picture,
                        "threshold": threshold,
                        "queries": list(found.queries),
                        "receipt": found.queries == queries,
                        **compare(ours, session.outputs(found)),
                    }
                )
    return rows


@torch.inference_mode()
def reference(
    graph: ExportGraph,
    session: ChainSession,
    image_13HW: Array,
    text_KD: Array | None,
    threshold: float,
) -> tuple[dict[str, Array], tuple[int, ...]]:
    """What the package says about a picture under the chain's policy, and its receipt's queries."""
    network = graph.network
    text = None if text_KD is None else torch.from_numpy(text_KD)
    encoded = graph.encode(torch.from_numpy(image_13HW), text)
    (pruned,) = run_pruned(network, encoded, session.policy, threshold=threshold, maps=session.maps)
    last, alpha = pruned.output.layers[-1], network.config.objectness_weight
    scores = name_scores(last.logits_BQK, last.object_logits_BQ, None, alpha)
    values = {
        "scores": with_quality(scores, last.quality_logits_BQ),
        "objectness": last.object_logits_BQ.sigmoid(),
        "boxes": last.boxes_BQ4,
        "masks": pruned.output.mask_logits(),
    }
    return {name: np.asarray(value) for name, value in values.items()}, pruned.queries
