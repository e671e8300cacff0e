"""What a forward pass costs, counted three ways that must agree (docs/cost.md).

* :mod:`mobius_seg.cost.dispatch`: every operator that torch really dispatches, by its tensors;
* :mod:`mobius_seg.cost.closed`: formulas from the configuration alone, the backbone left out;
* :mod:`mobius_seg.cost.graph`: the shapes in the exported program.

Counted are convolutions, matrix products, attention and ``grid_sample`` (4 per value read, the four
corners of a bilinear sample). Element-wise work, norms, reductions, pooling and resizing are left
out, as in the tables of detection papers, which print the same figure as "FLOPs". An operator that
is in no list is an error, so that nothing is left out by accident.
"""
