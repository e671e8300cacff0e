"""Runs the module itself in torch: the reference that every other session is held to."""

import torch

from mobius_seg.export.graph import ExportGraph
from mobius_seg.export.session import Array
from mobius_seg.export.spec import OUTPUTS


class TorchSession:
    """The graph before any exporter, in float32.

    Args:
        graph: the module.
    """

    def __init__(self, graph: ExportGraph) -> None:
        """See the class."""
        self._graph = graph

    @torch.inference_mode()
    def run(self, image_B3HW: Array, text_KD: Array | None) -> dict[str, Array]:
        """As :meth:`mobius_seg.export.session.Session.run`."""
        text = torch.from_numpy(text_KD) if self._graph.dynamic and text_KD is not None else None
        found = self._graph(torch.from_numpy(image_B3HW), text)
        return {name: value.numpy() for name, value in zip(OUTPUTS, found, strict=True)}
