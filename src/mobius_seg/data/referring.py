"""Referring expressions beside a COCO instance file.

The file is a JSON object ``{"expressions": [{"image_id", "annotation_id", "text"}, ...]}``; ids are
those of the instance file, and every expression means exactly one instance of its picture.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobius_seg.data import coco_checks as check
from mobius_seg.data.coco_file import CocoData, read_entries
from mobius_seg.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferringExpression:
    """A text that means one instance.

    Attributes:
        image: index into ``CocoData.images``.
        annotation: index into ``CocoData.annotations``.
        text: the expression, without white space around it.
    """

    image: int
    annotation: int
    text: str


def default_expressions_path(annotations: str | Path) -> Path:
    """``expressions.json`` in the folder of the instance file, as ``mobius-seg compose`` writes."""
    return Path(annotations).with_name("expressions.json")


def read_expressions(path: str | Path, coco: CocoData) -> tuple[ReferringExpression, ...]:
    """Read and check the expressions that go with an instance file.

    Args:
        path: the JSON file of expressions.
        coco: the instance file that its ids point to.

    Raises:
        InputError: the file or an entry of it is malformed, an id is unknown, the annotation is of
            another image, or it is a crowd region; one line says which and what is allowed.
    """
    file = Path(path)
    data = check.read_json_object(file, "expressions file")
    try:
        values = check.entries(data, "expressions")
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    image_rows = {image.id: row for row, image in enumerate(coco.images)}
    annotation_rows = {annotation.id: row for row, annotation in enumerate(coco.annotations)}
    found: list[ReferringExpression] = []

    def read(entry: dict[str, Any]) -> None:
        image = check.known(entry, "image_id", image_rows, "images")
        annotation = check.known(entry, "annotation_id", annotation_rows, "annotations")
        meant = coco.annotations[annotation]
        if meant.image != image:
            raise InputError(
                f"`annotation_id` {meant.id} is on image {coco.images[meant.image].id}; allowed: "
                f"an annotation on image {coco.images[image].id}"
            )
        if meant.crowd:
            raise InputError(f"`annotation_id` {meant.id} is a crowd; allowed: one instance")
        text = check.text(entry, "text")
        found.append(ReferringExpression(image=image, annotation=annotation, text=text))

    read_entries(file, "expressions", values, read)
    return tuple(found)
