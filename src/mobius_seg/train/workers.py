"""Signals to a training's loader processes."""

import signal

import torch


def start_worker(_worker: int) -> None:
    """Make a loader process ignore Ctrl-C and polite kills, which a terminal sends to all.

    The run ends it once the step in progress is stored, after the batch that it is composing at
    the latest; without this it dies first, and the run with it. It computes on one thread: the
    cores belong to the training process.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
