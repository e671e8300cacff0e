"""What changes when several processes train together."""

import socket

import pytest
import torch
from torch import distributed, multiprocessing

from mobius_seg.losses import mean_count


def _process(rank: int, port: int, counts: list[float], expected: float) -> None:
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", address, rank=rank, world_size=len(counts))
    try:
        own = torch.tensor(counts[rank])
        assert float(mean_count(own)) == expected
        assert float(own) == counts[rank]
    finally:
        distributed.destroy_process_group()


@pytest.mark.slow
def test_objects_are_counted_over_all_processes() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_process, (port, [3.0, 8.0], 5.5), nprocs=2)


def test_alone_the_count_is_its_own_mean() -> None:
    assert float(mean_count(torch.tensor(7.0))) == 7.0
