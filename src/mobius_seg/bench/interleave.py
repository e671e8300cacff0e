"""Contenders take turns in blocks, each in a process of its own, and rows are made of the times.

A machine that slows down for a while slows all of them, so figures of one run can be compared and
figures of two runs cannot.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mobius_seg.bench.contenders import PEER, Contender
from mobius_seg.errors import InputError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one contender.

    Attributes:
        contender: which.
        blocks_ms: times of the runs, block by block.
        peak_mb: largest memory of its process, in 10^6 bytes, its libraries included.
        facts: what the runner knows beside its times.
        more: what the runner measured beside its times, block by block.
    """

    contender: Contender
    blocks_ms: tuple[tuple[float, ...], ...]
    peak_mb: float
    facts: dict[str, Any] = field(default_factory=dict)
    more: tuple[dict[str, Any], ...] = ()

    @property
    def median_ms(self) -> float:
        """Median over the blocks of each block's median."""
        return statistics.median(statistics.median(block) for block in self.blocks_ms)


class Worker:
    """A contender's process, seen from the one that gives the orders.

    Args:
        contender: what it loads.

    Raises:
        InputError: it could not load or run it; the message says why in one line.
    """

    def __init__(self, contender: Contender) -> None:
        """See the class."""
        self.contender = contender
        environment = dict.fromkeys(_THREAD_VARIABLES, str(contender.threads))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mobius_seg.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=os.environ | environment,
        )
        try:
            self.facts: dict[str, Any] = self._ask(contender.to_json()).get("facts", {})
        except BaseException:
            self.close()
            raise

    def block(self, runs: int) -> dict[str, Any]:
        """One block of so many counted runs."""
        return self._ask(json.dumps({"runs": runs}))

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _end(self, code: int) -> str:
        """Exit code and last words of the process."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines() or [""]
        return f"code {code}: {lines[-1][:300]}" if lines[-1] else f"code {code}"

    def _ask(self, line: str) -> dict[str, Any]:
        """Send an order and read the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: there is no answer either
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            raise InputError(f"{self.contender.label}: its process ended with {self._end(code)}")
        values: dict[str, Any] = json.loads(answer)
        if "error" in values:
            raise InputError(f"{self.contender.label}: {values['error']}")
        return values


def turns(count: int, block: int) -> list[int]:
    """Who goes when in a block: the order moves on by one from block to block."""
    return [(start + block) % count for start in range(count)]


def measure(
    contenders: Sequence[Contender],
    runs: int,
    blocks: int,
    left_out: Callable[[str], None],
    step: Callable[[], None] = lambda: None,
) -> list[Measured]:
    """Run the contenders in turn.

    Args:
        contenders: what is measured.
        runs: counted runs of a block.
        blocks: how often each takes its turn.
        left_out: told in one line of each contender that cannot be measured.
        step: called after each block.

    Returns:
        What was measured of those that could be.
    """
    with contextlib.ExitStack() as stack:
        workers = list(_started(contenders, stack, left_out))
        answers: list[list[dict[str, Any]]] = [[] for _ in workers]
        failed: set[int] = set()
        for block in range(blocks):
            for index in turns(len(workers), block):
                if index in failed:
                    continue
                try:
                    answers[index].append(workers[index].block(runs))
                except InputError as error:
                    failed.add(index)
                    left_out(str(error))
                step()
        return [
            _measured(worker, own)
            for index, (worker, own) in enumerate(zip(workers, answers, strict=True))
            if index not in failed
        ]


def rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """One row of figures a contender, each with its ratios to the peers of the run."""
    return [_row(one, [other for other in measured if _is_peer(other)]) for one in measured]


def _started(
    contenders: Sequence[Contender], stack: contextlib.ExitStack, left_out: Callable[[str], None]
) -> Iterator[Worker]:
    """Processes of those contenders that can be loaded."""
    for contender in contenders:
        try:
            worker = Worker(contender)
        except InputError as error:
            left_out(str(error))
            continue
        stack.callback(worker.close)
        yield worker


def _measured(worker: Worker, answers: list[dict[str, Any]]) -> Measured:
    known = ("times_ms", "peak_mb")
    return Measured(
        contender=worker.contender,
        blocks_ms=tuple(tuple(answer["times_ms"]) for answer in answers),
        peak_mb=max(answer["peak_mb"] for answer in answers),
        facts=worker.facts,
        more=tuple({k: v for k, v in answer.items() if k not in known} for answer in answers),
    )


def _row(one: Measured, peers: Sequence[Measured]) -> dict[str, Any]:
    times = sorted(time for block in one.blocks_ms for time in block)
    contender = one.contender
    ratios = {peer.contender.model: one.median_ms / peer.median_ms for peer in peers}
    spans = {peer.contender.model: _span(one, peer) for peer in peers}
    return {
        "model": contender.model,
        "runtime": contender.runtime,
        "operating_point": contender.operating_point,
        "precision": contender.precision,
        "vocabulary": contender.vocabulary,
        "size": list(contender.size),
        "latency_ms_median": round(one.median_ms, 3),
        "latency_ms_p95": round(_percentile(times, 0.95), 3),
        "throughput_ips": round(1000 * len(times) / sum(times), 3),
        "peak_mb": round(one.peak_mb, 1),
        "ratio_to": {name: round(ratio, 4) for name, ratio in ratios.items()},
        "ratio_span": {name: [round(end, 4) for end in span] for name, span in spans.items()},
        **one.facts,
    }


def _span(one: Measured, peer: Measured) -> tuple[float, float]:
    """Least and largest ratio of the medians of one block."""
    ratios = [
        statistics.median(ours) / statistics.median(theirs)
        for ours, theirs in zip(one.blocks_ms, peer.blocks_ms, strict=True)
    ]
    return min(ratios), max(ratios)


def _percentile(ascending: Sequence[float], share: float) -> float:
    """Linear between the values, as numpy does by default."""
    at = share * (len(ascending) - 1)
    low = int(at)
    high = min(low + 1, len(ascending) - 1)
    return ascending[low] + (at - low) * (ascending[high] - ascending[low])


def _is_peer(one: Measured) -> bool:
    return one.contender.runtime == PEER
