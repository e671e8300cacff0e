"""Graphs for other runtimes: made, checked, measured against the network, and run again.

* :mod:`mobius_seg.export.graph`: the module that is exported, and its program;
* :mod:`mobius_seg.export.lint`: which operators a runtime's graph may hold;
* :mod:`mobius_seg.export.write`: a folder with graph, ``model.json`` and ``parity.json``;
* :mod:`mobius_seg.export.runtime`: :func:`open_exported`, pictures in and instances out;
* :mod:`mobius_seg.export.parity`: what a graph says against what the network says.

docs/export.md has the contract of the folder.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mobius_seg.export.runtime import ExportedModel, open_exported

__all__ = ["ExportedModel", "open_exported"]


def __getattr__(name: str) -> object:
    """The public names, loaded when they are first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mobius_seg.export import runtime

    return getattr(runtime, name)
