"""The generated parts of the documentation are those that the stored measurements give."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_generated_pages_are_current() -> None:
    command = [sys.executable, "benchmarks/report.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run `python benchmarks/report.py`\n{done.stdout}{done.stderr}"
