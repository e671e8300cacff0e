"""From a fresh clone to the first overlay, and how long the tests take.

Clones this repository into a temporary folder, then runs there what a newcomer would: ``make
demo``, and after it the two halves of ``make test``. What is not committed is not cloned.
"""

import argparse
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from conditions import ROOT, conditions, store

SUMMARY = re.compile(r"=+ (.*(?:passed|failed|error|deselected).*) =+")


def main() -> None:
    """Measure and store ``results/setup.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skip-tests", action="store_true", help="only make demo")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mobius-seg-clone-") as folder:
        clone = Path(folder) / "mobius-seg"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        result: dict[str, Any] = {"demo": _timed(["make", "demo"], clone)}
        result["demo_again"] = _timed(["make", "demo"], clone)
        result["overlays"] = sorted(p.name for p in (clone / "demo").glob("*.png"))
        if not arguments.skip_tests:
            result["install_dev"] = _timed(["make", ".venv/.installed-full"], clone)
            result["tests_fast"] = _timed(["make", "test-fast"], clone)
            result["tests_slow"] = _timed(["make", "test-slow"], clone)
    print(result)
    note = "packages come from the package index over the network, pip cache as it was"
    store("setup", {"conditions": conditions(note=note), "setup": result})


def _timed(command: list[str], folder: Path) -> dict[str, Any]:
    """Run a command in ``folder``; seconds, exit code and pytest's closing line if there is one."""
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-3000:])
    closing = SUMMARY.findall(done.stdout)
    outcome = {"seconds": round(seconds, 1), "exit_code": done.returncode}
    return outcome | ({"summary": re.sub(r" in [\d.]+s.*", "", closing[-1])} if closing else {})


if __name__ == "__main__":
    main()
