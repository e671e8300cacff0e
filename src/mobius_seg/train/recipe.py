"""A run in stages, as data: what each is shown, at which size, and what of the network is frozen.

For comparison with staged systems; our own training has one stage. A recipe file is a JSON object
``{"schedule": ..., "stages": [{...}, ...]}`` with the fields of :class:`Stage`.
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mobius_seg.errors import InputError
from mobius_seg.train.mixture import (
    MOST,
    Source,
    build,
    check_fields,
    check_ratios,
    parse_sources,
    read_object,
    show,
)

Schedule = Literal["stage", "run"]
LARGEST = 8192
"""Longest side of pictures in pixels, as of a model's input (config.py)."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a run.

    Attributes:
        share: length against the other stages' shares; numbers of steps will do.
        name: for the reader.
        sources: what is shown; nothing = the run's own data.
        frozen: beginnings of parameter names that are not trained, such as ``text_projection``.
        size: side of the pictures in pixels; None = the run's.
        lr: factor on the run's learning rates.
        warmup: steps of linear warm-up; None = the run's.
    """

    share: float
    name: str = ""
    sources: tuple[Source, ...] = ()
    frozen: tuple[str, ...] = ()
    size: int | None = None
    lr: float = 1.0
    warmup: int | None = None

    def __post_init__(self) -> None:
        """Reject what cannot be trained.

        Raises:
            InputError: names the field, the value and what is allowed.
        """
        for field in ("share", "lr"):
            value = getattr(self, field)
            if not 0 < value <= MOST:
                raise InputError(f"Stage.{field} is {value!r:.60}; allowed: above 0 to {MOST:g}")
        if self.size is not None and (not 32 <= self.size <= LARGEST or self.size % 32):
            raise InputError(f"Stage.size is {self.size}; allowed: multiples of 32 up to {LARGEST}")
        if self.warmup is not None and self.warmup < 0:
            raise InputError(f"Stage.warmup is {self.warmup}; allowed: 0 or more")
        if not all(isinstance(name, str) and name for name in self.frozen):
            raise InputError(f"Stage.frozen is {list(self.frozen)!r}; allowed: parameter names")
        if self.sources:
            check_ratios(self.sources)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Stages in order.

    Attributes:
        stages: at least one.
        schedule: ``stage``: every stage has a warm-up, a flat part and a cosine of its own and
            begins with a fresh optimiser, as a series of runs from each other's weights; ``run``:
            one schedule and one optimiser over all of them.
    """

    stages: tuple[Stage, ...]
    schedule: Schedule = "stage"

    def __post_init__(self) -> None:
        """Reject what cannot be trained.

        Raises:
            InputError: names the field, the value and what is allowed.
        """
        if not self.stages:
            raise InputError("Recipe.stages is empty; allowed: at least one stage")
        if self.schedule not in get_args(Schedule):
            raise InputError(f"Recipe.schedule is {self.schedule!r}; allowed: stage, run")

    def starts(self, steps: int) -> list[int]:
        """First step of each stage, and ``steps`` behind the last.

        Args:
            steps: of the whole run.

        Raises:
            InputError: a stage has no step.
        """
        total = math.fsum(stage.share for stage in self.stages)
        done = [math.fsum(s.share for s in self.stages[:n]) for n in range(len(self.stages) + 1)]
        starts = [round(steps * part / total) for part in done]
        for number, (first, end) in enumerate(itertools.pairwise(starts), start=1):
            if first >= end:
                raise InputError(
                    f"stage {number} of the recipe has no step of {steps}; allowed: at least one"
                )
        return starts


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe file.

    Raises:
        InputError: it cannot be read, or an entry is malformed; one line says which.
    """
    file = Path(path)
    data = read_object(file, ("stages", "schedule"))
    values = data.get("stages")
    if not isinstance(values, list):
        raise InputError(f"{file}: 'stages' is {show(values)}; allowed: a list of objects")
    stages = []
    for number, entry in enumerate(values, start=1):
        place = f"{file}: stage {number}"
        fields = check_fields(entry, Stage, place)
        if "sources" in fields:
            fields["sources"] = parse_sources(fields["sources"], file.parent, place)
        fields["frozen"] = tuple(fields.get("frozen", ()))
        stages.append(build(Stage, fields, place))
    fields = {"stages": tuple(stages), "schedule": data.get("schedule", "stage")}
    recipe: Recipe = build(Recipe, fields, str(file))
    return recipe
