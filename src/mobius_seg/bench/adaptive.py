"""An operating point that looks at each picture, timed on pictures.

What such a point costs depends on what it sees: noise would be dropped at once. So it takes the
scenes of a data set in turn, asked for their names; the score threshold is 0, as in evaluation.
"""

from typing import Any

import torch

from mobius_seg.bench.contenders import Contender
from mobius_seg.calibration_file import NAMES
from mobius_seg.jobs import read_job
from mobius_seg.predictor import load
from mobius_seg.preprocess import pad_and_stack
from mobius_seg.prompts import Prompt
from mobius_seg.pruned_decoder import run_pruned


class AdaptiveRunner:
    """The network in eager mode under the model's own policy, text side included.

    Scenes are fitted into the contender's size before they are timed, so that every run has the
    input of the fixed schedules beside it.

    Args:
        contender: of runtime ``torch``, with ``scenes`` and ``asked``.
    """

    def __init__(self, contender: Contender) -> None:
        """See the class."""
        torch.set_num_threads(contender.threads)
        self.model = load(contender.model, "cpu")
        self.policy = self.model.planner.points.policy(contender.operating_point)
        maps = self.model.calibration
        self.maps = None if maps is None else maps.maps[NAMES]
        prompt = Prompt(names=contender.asked)
        vocabulary, encoder = self.model.vocabulary, self.model.text_encoder
        self.prompt = vocabulary.prompt([prompt], encoder, self.model.device)
        jobs = [read_job(path, 0, prompt, contender.size, "scene") for path in contender.scenes]
        self.inputs = [pad_and_stack([job.pixels], job.frame) for job in jobs]
        self.turn = 0
        self.facts: dict[str, Any] = {
            "weights": "trained",
            "schedule": f"{self.policy.form}, on {len(jobs)} pictures in turn",
        }

    @torch.inference_mode()
    def run(self) -> None:
        """Encode, decode, masks of the queries that are left; the next picture each time."""
        images_B3HW = self.inputs[self.turn % len(self.inputs)]
        self.turn += 1
        network = self.model.network
        encoded = self.model.vocabulary.encode(images_B3HW, self.prompt)
        output = run_pruned(network, encoded, self.policy, threshold=0.0, maps=self.maps)[0].output
        network.mask_product(output.layers[-1].mask_embed_BQM, output.mask_features_BMhw)

    def start_block(self) -> None:
        """See :class:`mobius_seg.bench.runners.Runner`."""

    def end_block(self) -> dict[str, Any]:
        """See :class:`mobius_seg.bench.runners.Runner`."""
        return {}
