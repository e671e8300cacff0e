"""Text of the generated pages that stays the same whatever was measured."""

RESULTS = """\
# Results

Written by `make bench`; no figure on this page is typed. *Composed* means scenes pasted together
from cut-outs ([data](data.md)): such a figure says nothing directly about photographs.
"""

SPEED = """\
Milliseconds an image, median of {runs}; *predict* goes from an array to instances with run lengths,
the network alone ends before masks are made.
"""

VOCABULARY = """\
The whole `predict` of {model} at {size}, text encoded before; a process for each vocabulary, all in
turn, median over {blocks} blocks of {runs} runs. Bars for 10,000 names: at most {memory_mb:.0f} MB
beyond 80 names, and at most {time_ratio:g} times their time. What leaves: [bench](bench.md).
"""

PICTURES = """\
What they show, failures included: [pictures](pictures.md).
"""

CARD_MODEL = """\
Instance segmentation from names, a referring expression or nothing; {params:.1f} M parameters,
{gmac:.2f} GMAC at the preset's {size}x{size} with 80 names. Pictures are resized to {own} pixels
unless told otherwise; those of the last training steps had {last}.
Design: [model](model.md). Licence of code and weights: Apache-2.0; the pictures behind them keep
theirs ([data](data.md)).
"""

CARD_USE = """\
Research on small open-vocabulary segmenters, and tools where a person looks at the result. Not for
decisions about people, nor for anything where a missed or misnamed object does harm: it has never
been tested for that.
"""

CARD_LIMITS = """\
The weights have seen {seen}: cut-outs of rendered models and drawings on photographs
and textures. Photographs differ in light, texture, crowding and pose; parts, surfaces and people
are not taught. Scores are not calibrated for photographs. The names follow the packages they come
from, and so do their gaps and biases. More in the
[README](../README.md#what-the-weights-can-and-cannot-do).
"""
