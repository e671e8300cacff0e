"""Under which conditions a figure was measured, and where it is stored."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from mobius_seg.files import write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "timm", "numpy", "pycocotools", "mobius-seg")


def conditions(*, threads: int | None = None, **more: Any) -> dict[str, Any]:
    """Device, threads, versions, commit and command of this run.

    Args:
        threads: CPU threads used, None where that means nothing.
        more: further facts, such as precision and batch size.

    Returns:
        A JSON-ready dictionary without a path of this machine in it.
    """
    return {
        "device": _cpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        **more,
    }


def store(name: str, values: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write ``values`` to ``<folder>/<name>.json`` and return the path."""
    path = folder / f"{name}.json"
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    print(f"wrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    return path


def _cpu() -> str:
    """Name of the processor and the instruction sets that matter for speed."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    facts = {}
    for line in info.read_text().splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    flags = set(facts.get("flags", "").split())
    sets = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return f"{facts.get('model name', platform.machine())} ({', '.join(sets)})"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """Short commit, with ``+changes`` where the package's code differs from it."""
    done = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        return "unknown"
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "src"], cwd=ROOT).returncode
    return done.stdout.strip() + ("+changes" if changed else "")
