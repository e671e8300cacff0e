"""How long ``import mobius_seg`` takes: the least of several fresh interpreters."""

import argparse
import statistics
import subprocess
import sys

from conditions import conditions, store

PROGRAM = (
    "import time; start = time.perf_counter(); import mobius_seg; "
    "print(time.perf_counter() - start)"
)


def main() -> None:
    """Measure and store ``results/import.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    times = []
    for _ in range(runs):
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        times.append(float(done.stdout))
    result = {
        "import_seconds_min": round(min(times), 4),
        "import_seconds_median": round(statistics.median(times), 4),
        "runs": runs,
    }
    print(result)
    store("import", {"conditions": conditions(), "import": result})


if __name__ == "__main__":
    main()
