"""Fetching the photographs that ``dev.json`` and ``test.json`` beside this file annotate.

Every picture is a file of a package, taken as it is: nothing is decoded, scaled or written anew, so
that the outlines fit to the pixel. Packages are downloaded, verified and unpacked as those of the
training are (:mod:`mobius_seg.data.assets`); a picture is written only when its own digest is the
pinned one. ``--table`` prints the table of docs/photographs.md instead.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from mobius_seg.data.assets import Source, fetch
from mobius_seg.errors import InputError
from mobius_seg.files import atomic_path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HALVES = ("dev", "test")


def main() -> None:
    """Fetch the packages and write the pictures, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=ROOT / "assets", help="for the packages")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "photos", help="for the photos")
    parser.add_argument("--table", action="store_true", help="print who made which picture")
    arguments = parser.parse_args()
    if arguments.table:
        print(table_of_pictures(), end="")
        return
    try:
        packages = sources()
        unpacked = fetch(arguments.assets, packages)
        folders = {source.package: path for source, path in zip(packages, unpacked, strict=True)}
        for entry in pictures():
            write_picture(entry, folders, arguments.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{len(pictures())} photographs in {arguments.out}")


def sources() -> list[Source]:
    """The packages that hold the photographs."""
    content = json.loads((HERE / "sources.json").read_text(encoding="utf-8"))
    return [Source(**entry) for entry in content["sources"]]


def pictures() -> list[dict[str, Any]]:
    """The ``images`` entries of both halves, by id."""
    halves = [json.loads((HERE / f"{half}.json").read_text(encoding="utf-8")) for half in HALVES]
    return sorted((entry for half in halves for entry in half["images"]), key=lambda e: e["id"])


def write_picture(entry: dict[str, Any], folders: dict[str, Path], out: Path) -> None:
    """Copy one picture out of its package.

    Args:
        entry: its ``images`` entry: ``package``, ``file`` (path in the package), ``sha256``, and
            ``offset`` and ``bytes`` where that file is an archive with pictures stored in it.
        folders: package -> folder that it is unpacked into.
        out: receives ``file_name``.

    Raises:
        InputError: the package has no such file, or the picture's digest is not the pinned one.
    """
    path = folders[entry["package"]] / entry["file"]
    try:
        with path.open("rb") as stream:
            stream.seek(entry.get("offset", 0))
            content = stream.read(entry.get("bytes", -1))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    found = hashlib.sha256(content).hexdigest()
    if found != entry["sha256"]:
        raise InputError(
            f"{entry['file_name']}: SHA-256 {found[:16]}... of what is in {path} is not the pinned "
            f"{entry['sha256'][:16]}...; remove the unpacked package and fetch it again"
        )
    with atomic_path(out / entry["file_name"]) as temporary:
        temporary.write_bytes(content)


def table_of_pictures() -> str:
    """A Markdown table: picture, half, package, file, licence and author."""
    lines = ["| picture | half | package | file | licence | author |", "| --- " * 6 + "|"]
    for entry in pictures():
        file = entry["file"].rsplit("/", 1)[-1]
        inside = f" ({entry['member'].rsplit('/', 1)[-1]})" if "member" in entry else ""
        package = f"{entry['package']} {entry['version']} ({entry['registry']})"
        cells = (entry["file_name"], entry["split"], package, file + inside)
        lines.append(f"| {' | '.join((*cells, entry['licence'], entry['author']))} |")
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
