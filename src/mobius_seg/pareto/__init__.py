"""Accuracy against measured time and cost of models, sizes and operating points, as one page.

* :mod:`mobius_seg.pareto.request`: what is asked for, checked before anything slow;
* :mod:`mobius_seg.pareto.accuracy`: average precision and executed cost of each schedule;
* :mod:`mobius_seg.pareto.store`: the file beside the page that finished figures are kept in;
* :mod:`mobius_seg.pareto.timing`: latency in each runtime, by ``mobius-seg bench``;
* :mod:`mobius_seg.pareto.point`: a row of figures, and the commands that use it;
* :mod:`mobius_seg.pareto.front`: which points nothing dominates;
* :mod:`mobius_seg.pareto.chart`: scatter plots as SVG;
* :mod:`mobius_seg.pareto.page`: the page;
* :mod:`mobius_seg.pareto.command`: ``mobius-seg pareto``.

docs/pareto.md says what the figures mean.
"""
