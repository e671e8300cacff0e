"""``mobius-seg segment``: from paths on the command line to overlays and JSON files."""

import dataclasses
import glob
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobius_seg.errors import InputError
from mobius_seg.files import write_text

if TYPE_CHECKING:
    from mobius_seg.instances import Instances
    from mobius_seg.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture and where its results go.

    Attributes:
        image: the picture.
        overlay: PNG to write.
        result: JSON to write.
    """

    image: Path
    overlay: Path
    result: Path


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of one job."""

    job: Job
    instances: "Instances"


def expand_paths(patterns: Sequence[str], on_error: Callable[[InputError], None]) -> list[Path]:
    """The pictures that the user means, each once, in the order given.

    Args:
        patterns: files; folders, which stand for the pictures directly in them; glob patterns
            (also ``**``), which a shell may or may not have expanded already.
        on_error: called for each pattern that means nothing.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        try:
            for path in _expand(pattern):
                found.setdefault(os.path.realpath(path), path)
        except InputError as error:
            on_error(error)
    return list(found.values())


def plan_outputs(images: Sequence[Path], out: Path) -> list[Job]:
    """Where the results of each picture go: ``<stem>.png`` and ``<stem>.json`` in ``out``.

    Equal stems (also those that differ by case alone, which some file systems take for equal) are
    numbered, and no picture that is read is written over.
    """
    inputs = {os.path.realpath(image).casefold() for image in images}
    stems = Counter(image.stem.casefold() for image in images)
    taken: set[str] = set()
    jobs = []
    for image in images:
        number = 1
        while True:
            stem = image.stem if number == 1 else f"{image.stem}-{number}"
            overlay, result = out / f"{stem}.png", out / f"{stem}.json"
            # A numbered name may itself be another picture's own.
            foreign = number > 1 and stem.casefold() in stems
            clash = any(os.path.realpath(p).casefold() in inputs for p in (overlay, result))
            if stem.casefold() not in taken and not foreign and not clash:
                break
            number += 1
        taken.add(stem.casefold())
        jobs.append(Job(image=image, overlay=overlay, result=result))
    return jobs


def make_folder(out: Path) -> None:
    """Make the output folder and see that it can be written to.

    Raises:
        InputError: it cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{out}: is a file; --out names a folder") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{out}: cannot be made: {reason}") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise InputError(f"{out}: cannot be written to")


def segment_file(predictor: "Predictor", model: str, job: Job, **arguments: Any) -> Done:
    """Predict one picture and write both files.

    Args:
        predictor: does it.
        model: what the user called it, for the JSON.
        job: the picture and the files.
        arguments: of :meth:`mobius_seg.Predictor.predict`.

    Raises:
        InputError: the picture cannot be used, or a file cannot be written.
    """
    from mobius_seg.imageio import load_image

    pixels = load_image(job.image)
    # The path stands for the picture from here on: the pixels of many would not fit into memory.
    instances = dataclasses.replace(predictor.predict(pixels, **arguments), source=job.image)
    instances.plot(pixels, job.overlay)
    try:
        described = describe(job.image, model, instances)
        if instances.receipt is not None and (
            arguments.get("budget")
            or arguments.get("operating_point")
            or arguments.get("recognise")
        ):
            described["receipt"] = instances.receipt.to_dict()
            origin = predictor.planner.points.origin
            if origin and arguments.get("operating_point") not in (None, "full"):
                described["receipt"]["operating_point"] = origin
        write_text(job.result, json.dumps(described, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{job.result}: cannot be written: {error.strerror or error}") from None
    return Done(job=job, instances=instances)


def describe(image: Path, model: str, instances: "Instances") -> dict[str, Any]:
    """The JSON of one picture."""
    keys = ("name", "score", "bbox", "segmentation")
    entries = [{key: entry[key] for key in keys} for entry in instances.to_coco()]
    height, width = instances.image_size
    return {
        "image": str(image),
        "width": width,
        "height": height,
        "model": model,
        "instances": entries,
    }


def print_table(done: Sequence[Done]) -> None:
    """Print what was found: a row an instance for one picture, a row a picture for several."""
    from rich.table import Table
    from rich.text import Text

    from mobius_seg.terminal import make_console, printable

    def cell(text: object) -> Text:
        return Text(printable(str(text)), overflow="fold")

    table = Table()
    if len(done) == 1:
        for title in ("#", "name", "score", "box x y w h", "pixels"):
            table.add_column(title, justify="left" if title == "name" else "right")
        found = done[0].instances
        for i, area in enumerate(found.areas):
            box = " ".join(f"{value:.0f}" for value in found.bbox(i))
            score = f"{found.scores[i]:.2f}"
            table.add_row(str(i + 1), cell(_short(found.names[i])), score, box, str(area))
    else:
        for title in ("image", "instances", "found", "overlay"):
            table.add_column(title, justify="right" if title == "instances" else "left")
        for entry in done:
            counts = Counter(_short(name) for name in entry.instances.names)
            words = ", ".join(f"{count} {name}" for name, count in counts.most_common(6))
            more = ", ..." if len(counts) > 6 else ""
            cells = (entry.job.image, len(entry.instances), words + more, entry.job.overlay)
            table.add_row(*(cell(value) for value in cells))
    console = make_console()
    nothing = len(done) == 1 and not len(done[0].instances)
    console.print("nothing found" if nothing else table)
    if len(done) == 1:
        job = done[0].job
        console.print(cell(f"wrote {job.overlay} and {job.result}"), soft_wrap=True)


def _expand(pattern: str) -> list[Path]:
    """The pictures of one pattern."""
    if not pattern.strip():
        raise InputError("an empty PATH; give a picture, a folder or a glob")
    path = Path(pattern)
    if path.is_dir():
        return _in_folder(path)
    if path.exists() or not glob.has_magic(pattern):
        if not path.exists():
            raise InputError(f"{pattern}: no such file or folder")
        return [path]
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    files = [entry for entry in found if entry.is_file()]
    if not files:
        raise InputError(f"{pattern}: no file matches")
    return files


def _in_folder(folder: Path) -> list[Path]:
    """The pictures directly in a folder."""
    from mobius_seg.imageio import image_suffixes

    suffixes = image_suffixes()
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from None
    files = [entry for entry in entries if entry.suffix.lower() in suffixes and entry.is_file()]
    if not files:
        raise InputError(f"{folder}: holds no image")
    return files


def _short(name: str, limit: int = 60) -> str:
    """A name that fits a table."""
    return name if len(name) <= limit else name[: limit - 3] + "..."
