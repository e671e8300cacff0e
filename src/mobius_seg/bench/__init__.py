"""Speed of our models in every runtime beside other networks, in one interleaved run.

* :mod:`mobius_seg.bench.contenders`: what is measured;
* :mod:`mobius_seg.bench.runners`: how each is loaded and run once;
* :mod:`mobius_seg.bench.adaptive`: the same for points that look at each picture;
* :mod:`mobius_seg.bench.worker`: the process that a contender lives in;
* :mod:`mobius_seg.bench.interleave`: blocks in turn, and rows of figures;
* :mod:`mobius_seg.bench.stages`: parts of a prediction beside what the processor could reach;
* :mod:`mobius_seg.bench.command`: ``mobius-seg bench``.

docs/bench.md says what the figures mean.
"""
