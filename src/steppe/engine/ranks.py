"""Several processes: who is first, sums over all of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch.distributed as dist
from torch import Tensor


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 when it is alone."""
    return dist.get_rank() if _together() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _together() else 1


def first() -> bool:
    """Whether this process writes the files."""
    return rank() == 0


def barrier() -> None:
    """Wait for all others."""
    if _together():
        dist.barrier()


def add_up(tensors: Iterable[Tensor]) -> None:
    """Sum each tensor over the processes, in place."""
    if world() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def share(n: int) -> range:
    """This process's part of ``range(n)``: consecutive, as even as possible."""
    return range(n * rank() // world(), n * (rank() + 1) // world())
