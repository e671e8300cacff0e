"""The process that one contender lives in: it loads, runs when it is told to, and measures itself.

Orders come as lines of JSON on standard input, answers go as lines of JSON to the standard output
that the process was started with; whatever a library prints goes to standard error.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from mobius_seg.bench.contenders import Contender
from mobius_seg.errors import InputError
from mobius_seg.machine import peak_mb


def main() -> int:
    """Serve until standard input ends; 0, or 1 where the contender cannot be loaded."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    contender = Contender.from_json(sys.stdin.readline())
    try:
        load_runner = _loader()
        imports_mb = peak_mb()
        run = load_runner(contender)
        run.run()  # what is done lazily is done, and what cannot run fails here
    except (InputError, ImportError, RuntimeError, ValueError, OSError, NotImplementedError) as bad:
        lines = str(bad).strip().splitlines() or [""]
        _answer(answers, {"error": f"{lines[0]}" if isinstance(bad, InputError) else _kind(bad)})
        return 1
    facts = run.facts | {"imports_mb": round(imports_mb, 1)}
    _answer(answers, {"ready": True, "facts": facts})
    for line in sys.stdin:
        _answer(answers, _block(run, json.loads(line)["runs"]))
    return 0


def _loader() -> Callable[[Contender], Any]:
    """What loads a contender, after the imports that all of them share."""
    from mobius_seg.bench.runners import load_runner

    return load_runner


def _block(run: Any, runs: int) -> dict[str, Any]:
    """One call that is not counted, then so many that are; times in milliseconds."""
    run.run()
    run.start_block()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run.run()
        times.append(1000 * (time.perf_counter() - start))
    return {"times_ms": times, "peak_mb": peak_mb(), **run.end_block()}


def _kind(error: BaseException) -> str:
    """An error of a library in one line."""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _answer(stream: TextIO, values: dict[str, Any]) -> None:
    stream.write(json.dumps(values) + "\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
