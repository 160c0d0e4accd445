"""Several processes: who is first, sums over all of them."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch
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
    """Sum each tensor over the processes, in place; all get the same bits."""
    for tensor in tensors:
        _reduce(tensor, dist.ReduceOp.SUM)


def least(tensor: Tensor) -> None:
    """The smallest of each entry over the processes, in place."""
    _reduce(tensor, dist.ReduceOp.MIN)


def from_first(tensors: Iterable[Tensor]) -> None:
    """What the first process has, in place, in all of them."""
    for tensor in tensors:
        _sent(tensor, lambda there: dist.broadcast(there, 0))


def number_of_first(number: float) -> float:
    """The first process's number, in all of them, who all call this.

    What each computes alone may differ in its last bits, and what is chosen by it altogether.

    Args:
        number: of this process.

    Example:
        >>> number_of_first(0.1)
        0.1
    """
    held = torch.tensor(number, dtype=torch.float64)
    from_first([held])
    return float(held)


def _reduce(tensor: Tensor, how: Any) -> None:
    _sent(tensor, lambda there: dist.all_reduce(there, how))


def _sent(tensor: Tensor, send: Callable[[Tensor], object]) -> None:
    """Do with a tensor what the processes do together, where they can."""
    if world() == 1:
        return
    if dist.get_backend() == "nccl" and tensor.device.type == "cpu":
        there = tensor.to(torch.device("cuda", torch.cuda.current_device()))
        send(there)
        tensor.copy_(there)
    elif tensor.is_contiguous():
        send(tensor)
    else:
        there = tensor.contiguous()
        send(there)
        tensor.copy_(there)


def speaks() -> bool:
    """Whether this process tells of an error: the first that fails does, once for all."""
    if world() == 1:
        return True
    with contextlib.suppress(Exception):  # the store may be gone with the process that held it
        failed: int = dist.distributed_c10d._get_default_store().add("steppe.failed", 1)
        return failed == 1
    return True


def share(n: int) -> range:
    """This process's part of ``range(n)``: consecutive, as even as possible."""
    return range(n * rank() // world(), n * (rank() + 1) // world())


def leave(code: int) -> NoReturn:
    """End the process; one of several without Python's clean-up.

    A thread of gloo that gives back a tensor during the clean-up aborts the process, though all
    work is done. destroy_process_group ends these threads only where no DDP model is left, and a
    barrier before it gives them a tensor more.

    Args:
        code: of the exit.

    Source: https://github.com/pytorch/pytorch/issues/190489
    """
    if world() == 1:
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code)
