"""Ending long work between two steps, where nothing is half done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Stoppable(Protocol):
    """A run that looks at ``stop`` after each step."""

    stop: bool


@contextmanager
def polite_stop(run: Stoppable) -> Iterator[None]:
    """Let Ctrl-C and a polite kill end the run after the step in progress, a second one at once.

    Between two updates of a step the weights belong to no step, so nothing is stored there.

    Args:
        run: its ``stop`` is set by the first signal.
    """

    def stop(_signal: int, _frame: object) -> None:
        if run.stop:
            raise KeyboardInterrupt
        run.stop = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
