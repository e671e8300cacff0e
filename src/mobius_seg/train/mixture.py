"""Where samples come from and what is told about them: a mixture of sources, as data.

A mixture file is a JSON object ``{"sources": [{...}, ...]}``; the fields of an entry are those of
:class:`Source`, its paths relative to the file's folder (docs/training.md).
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mobius_seg.errors import InputError
from mobius_seg.json_values import parse_json

Kind = Literal["composed", "coco"]
Supervision = Literal["masks", "boxes", "agnostic", "expressions"]
Naming = Literal["exhaustive", "federated"]
_CHOICES = {
    "kind": get_args(Kind),
    "supervision": get_args(Supervision),
    "names": get_args(Naming),
}
_PATHS = ("annotations", "images", "expressions")

MOST = 1e9
"""Highest ratio of a source, and share of a stage: sums of them stay finite."""
BLOCK = 1000
"""Samples in which every source comes exactly as often as its ratio says."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Samples of one origin, told one way.

    Attributes:
        kind: ``composed`` from the run's pack, or the pictures of a ``coco`` file.
        ratio: how many samples come from here, against the other sources' ratios.
        supervision: what is told: names with ``masks`` or with ``boxes`` alone; ``agnostic``
            masks without names; or one of a picture's ``expressions`` and the instance it means.
        names: whether a name that a picture does not have is known to be absent (``exhaustive``)
            or only if it is among a few that are stated (``federated``). None takes exhaustive for
            composed scenes, and what its file says (``neg_category_ids``) for each COCO picture.
        annotations: COCO file (``coco`` alone).
        images: folder of its pictures.
        expressions: file of its expressions; None takes ``expressions.json`` beside it.
    """

    kind: Kind
    ratio: float = 1.0
    supervision: Supervision = "masks"
    names: Naming | None = None
    annotations: Path | None = None
    images: Path | None = None
    expressions: Path | None = None

    def __post_init__(self) -> None:
        """Reject what no samples can be drawn from.

        Raises:
            InputError: names the field, the value and what is allowed.
        """
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices and not (name == "names" and value is None):
                raise InputError(f"Source.{name} is {value!r}; allowed: {', '.join(choices)}")
        if not 0 < self.ratio <= MOST:
            raise InputError(f"Source.ratio is {self.ratio!r:.60}; allowed: above 0 to {MOST:g}")
        coco = self.kind == "coco"
        for name in ("annotations", "images"):
            if (getattr(self, name) is not None) != coco:
                raise InputError(
                    f"Source.{name} is {str(getattr(self, name))!r}; allowed: a path where kind is"
                    " coco, nothing where it is composed"
                )
        if self.expressions is not None and not (coco and self.supervision == "expressions"):
            raise InputError(
                "Source.expressions is a path; allowed: with kind coco and supervision expressions"
            )


def read_mixture(path: str | Path) -> tuple[Source, ...]:
    """Read a mixture file.

    Raises:
        InputError: it cannot be read, or an entry is malformed; one line says which.
    """
    file = Path(path)
    data = read_object(file, ("sources",))
    if "sources" not in data:
        raise InputError(f"{file}: field 'sources' is missing; allowed: a list of objects")
    return parse_sources(data["sources"], file.parent, str(file))


def parse_sources(values: Any, folder: Path, where: str) -> tuple[Source, ...]:
    """Sources from the entries of a JSON list.

    Args:
        values: the list.
        folder: what relative paths start from.
        where: named in messages.

    Raises:
        InputError: an entry is malformed.
    """
    if not isinstance(values, list) or not values:
        raise InputError(f"{where}: 'sources' is {show(values)}; allowed: a list of objects")
    sources = []
    for number, entry in enumerate(values, start=1):
        place = f"{where}: source {number}"
        fields = check_fields(entry, Source, place)
        for name in _PATHS:
            if fields.get(name) is not None:
                fields[name] = folder / fields[name]
        sources.append(build(Source, fields, place))
    try:
        check_ratios(sources)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return tuple(sources)


def check_ratios(sources: Sequence[Source]) -> None:
    """Every source must come at least once in ``BLOCK`` samples.

    Raises:
        InputError: one would never be drawn.
    """
    for number, count in enumerate(block_counts(sources), start=1):
        if count == 0:
            raise InputError(
                f"source {number} has ratio {sources[number - 1].ratio:g}, less than one sample in"
                f" {BLOCK}; allowed: a share of at least {1 / BLOCK}"
            )


def block_counts(sources: Sequence[Source]) -> list[int]:
    """Samples of each source in ``BLOCK`` samples, by largest remainder."""
    total = math.fsum(source.ratio for source in sources)
    exact = [source.ratio / total * BLOCK for source in sources]
    counts = [math.floor(share) for share in exact]
    by_rest = sorted(range(len(exact)), key=lambda n: counts[n] - exact[n])
    for number in by_rest[: BLOCK - sum(counts)] if exact else ():
        counts[number] += 1
    return counts


def read_object(file: Path, allowed: Sequence[str]) -> dict[str, Any]:
    """The JSON object of a file, its fields among those allowed.

    Raises:
        InputError: the file cannot be read, is no such object, or has another field.
    """
    try:
        data = parse_json(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"{file}: not valid JSON ({str(error)[:100]})") from None
    if not isinstance(data, dict):
        fields = ", ".join(allowed)
        raise InputError(f"{file}: holds {show(data)}; allowed: an object with {fields}")
    for key in data:
        if key not in allowed:
            raise InputError(f"{file}: unknown field {key[:60]!r}; allowed: {', '.join(allowed)}")
    return data


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "float": ((int, float), "a number"),
    "int": ((int,), "a whole number"),
    "list": ((list,), "a list"),
}
_FIELD_KINDS = {
    "ratio": "float",
    "share": "float",
    "lr": "float",
    "size": "int",
    "warmup": "int",
    "sources": "list",
    "frozen": "list",
}


def check_fields(entry: Any, of: type, place: str) -> dict[str, Any]:
    """The fields of an entry, known to ``of`` and of the right kind of JSON value.

    Args:
        entry: a JSON value.
        of: a dataclass.
        place: named in messages.

    Raises:
        InputError: the entry is no object, or a field is unknown, missing or of a wrong kind.
    """
    fields = {field.name: field for field in dataclasses.fields(of)}
    if not isinstance(entry, dict):
        raise InputError(f"{place}: is {show(entry)}; allowed: an object with {', '.join(fields)}")
    for key, value in entry.items():
        if key not in fields:
            raise InputError(
                f"{place}: unknown field {key[:60]!r}; allowed: {', '.join(sorted(fields))}"
            )
        types, words = _KINDS[_FIELD_KINDS.get(key, "str")]
        absent = value is None and fields[key].default is None
        if not absent and (isinstance(value, bool) or not isinstance(value, types)):
            raise InputError(f"{place}: field {key!r} is {show(value)}; allowed: {words}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in entry:
            raise InputError(f"{place}: field {name!r} is missing")
    return dict(entry)


def build(of: type[Any], fields: Mapping[str, Any], place: str) -> Any:
    """The dataclass of these fields; what it rejects is told with its place.

    Raises:
        InputError: a value is not allowed.
    """
    try:
        return of(**fields)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def show(value: Any) -> str:
    """A JSON value in a message: short."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
