"""The machine that a figure was measured on: processor, versions, memory of a process."""

import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

_SETS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


def processor() -> str:
    """Name of the processor and the instruction sets that matter for speed."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    facts: dict[str, str] = {}
    for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    flags = set(facts.get("flags", "").split())
    sets = ", ".join(name for name in _SETS if name in flags)
    return f"{facts.get('model name', platform.machine())} ({sets})"


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Installed version of each package, None where it is not installed."""
    return {name: _version(name) for name in packages}


def peak_mb() -> float:
    """Largest memory that this process has held so far, in 10^6 bytes.

    On Linux the high-water mark of the process's own address space: ``ru_maxrss`` of a process
    counts what the process that started it held as well (the kernel carries the mark over exec).
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
