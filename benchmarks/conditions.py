"""Under which conditions a figure was measured, and where it is stored."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mobius_seg.files import write_text
from mobius_seg.machine import processor, versions

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
        "device": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
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


def _commit() -> str:
    """Short commit, with ``+changes`` where the package's code differs from it."""
    done = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        return "unknown"
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "src"], cwd=ROOT).returncode
    return done.stdout.strip() + ("+changes" if changed else "")
