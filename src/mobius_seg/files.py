"""Writing files so that nobody ever sees half of one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobius_seg.errors import InputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that replaces ``path`` when the block succeeds.

    Args:
        path: final file; its folder is created when missing.

    Yields:
        A path beside ``path`` with the same suffix, for the caller to write. When the block raises,
        the temporary file is removed and ``path`` is left as it was.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=final.suffix, dir=final.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: Path, option: str, *read: Path | None) -> None:
    """See, before the work, that a file can be written there and is none that is read.

    Args:
        path: of the file.
        option: that named it.
        read: files that the work reads.

    Raises:
        InputError: it is a folder or such a file, or lies where nothing can be written.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; {option} names a file")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written, {above} is no folder to write in")
    if os.path.realpath(path) in {os.path.realpath(file) for file in read if file is not None}:
        raise InputError(f"{path}: is read too; {option} would write over it")


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _umask() -> int:
    """The process's umask (reading it means setting it twice)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
