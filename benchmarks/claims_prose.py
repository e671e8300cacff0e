"""Text of the claims' sections that stays the same whatever was measured."""

SETTING = """\
Small setting: {model} at {size} pixels, {names} names, {images_a_run} images a run at full length
({steps} steps of {batch}), {calib_scenes} calib and {val_scenes} val scenes of its own, composed.
Complete: {complete} of {planned} runs. Details: [claims](claims.md).
"""

PIXEL_DECODER = """\
Equal training of networks that differ in the pixel decoder. GMAC of that part with {names} names,
in parentheses through the baseline's (`{baseline}`, here with two mixing layers; with six, as in
`glee-lite`, the ratios are those of the cost above); AP in per cent, mean over seeds and, in
parentheses, highest less lowest.
"""

CALIBRATION = """\
Equal fine-tunings from one checkpoint that differ in the loss. Errors as fractions, raw and with
isotonic maps fitted on calib scenes, at the middle stage ({middle}) and the last ({last});
definitions: [calibration](calibration.md). *Noise* is the LaECE_0 to expect of scores that are
right in every bin, from so many detections: an error near it cannot be told from none. *Rank
correlation* is that of the middle stage's confidence with the quality at the last stage. In
parentheses highest less lowest over the seeds. AP is the same raw and with maps.
"""

PRUNING = """\
`adaptive@eps`: floors learned on calib scenes so that at most a share eps of the final true
positives is lost at each stage; `adaptive@balanced` and `adaptive@fast`: the tuned operating
points; `static@...`: the same tuned as schedules for all pictures alike. At the cost that each
adaptive policy had on calib scenes: `fixed`, the schedule that loses least there; `random`, as many
queries drawn; `oracle`, as many, the full decoder's true positives first, names aside;
`uncalibrated`, raw scores with one floor. `layers@n` runs n layers with all queries. What is kept
is per cent of the full decoder's true positives, the query selection first.
"""

TRAINING = """\
Equal images a step, equal kinds of supervision. Staged: boxes with frozen text, then everything,
then more masks without names. Unified runs complete a schedule of their own. In parentheses highest
less lowest over the seeds.
"""
