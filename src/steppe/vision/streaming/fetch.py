"""Batches from worker processes, in the order in which they are asked for."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Iterator, Mapping
from multiprocessing import connection
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader

from steppe.core.errors import SteppeError
from steppe.vision.streaming.worker import Asked, Batches

T = TypeVar("T")
AHEAD = 2
"""Batches that each worker makes before they are asked for."""
MOST = 8
"""Workers, where nobody says how many."""
PATIENCE = 1.0
"""Seconds in which the end of a worker is seen, where what came from it broke off."""


def usual_workers(processes: int = 1, environment: Mapping[str, str] = os.environ) -> int:
    """How many workers a process has where nobody says: its share of the cores, at most 8.

    The cores are those of a machine, and so are the processes that share them: as many as torchrun
    has started there (``LOCAL_WORLD_SIZE``), or all where nobody says.

    Args:
        processes: that train together, on all machines.
        environment: of this process.

    Example:
        >>> 0 < usual_workers() <= 8
        True
    """
    here = int(environment.get("LOCAL_WORLD_SIZE", processes))
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(MOST, cores // min(here, processes)))


class _Asked:
    """The lists of what is asked for next; a batch sampler of torch's that can be set anew."""

    def __init__(self) -> None:
        self.lists: Iterator[list[Asked]] = iter(())

    def __iter__(self) -> Iterator[list[Asked]]:
        return self.lists


class Fetcher(Generic[T]):
    """Makes batches with torch's DataLoader: workers live on from epoch to epoch.

    Nothing of a batch depends on the number of workers, and no generator of the process is used.
    One that is asked for batches while others are read starts workers for them alone.

    Args:
        made: what they are made of.
        workers: processes; 0 decodes in this one.
        pin: give batches in memory that a GPU reads directly.
    """

    def __init__(self, made: Batches[T], workers: int, pin: bool = False) -> None:
        if workers < 0:
            raise SteppeError("workers must be 0 or more", got=workers, way_out="data.workers=2")
        self.made, self.workers, self.pin = made, workers, pin
        self._idle: list[tuple[DataLoader[Any], _Asked]] = []

    def batches(self, lists: Iterator[list[Asked]]) -> Iterator[T]:
        """The batch of each list.

        Args:
            lists: read a few ahead of what is given.

        Raises:
            SteppeError: an image is not as it must be, or a worker process died. What else fails is
                raised as it is.
        """
        loader, asked = self._idle.pop() if self._idle else self._made()
        asked.lists = lists
        with warnings.catch_warnings(), _no_new_handler(signal.SIGCHLD):
            warnings.filterwarnings("ignore", "This DataLoader will create")
            try:
                stream = iter(loader)  # of workers that live on from the last epoch, it asks them
            except (RuntimeError, OSError, EOFError) as error:
                if _one_is_dead(loader._iterator):
                    raise _died(error) from error
                raise
        alive = False
        try:
            while True:
                alive = False
                try:
                    images = next(stream)
                except StopIteration:
                    alive = True
                    return
                except (RuntimeError, OSError, EOFError) as error:
                    if _one_is_dead(stream):
                        raise _died(error) from error
                    raise
                alive = True
                if isinstance(images, SteppeError):
                    raise images
                yield images
        finally:
            del stream
            if alive:
                self._idle.append((loader, asked))

    def _made(self) -> tuple[DataLoader[Any], _Asked]:
        asked = _Asked()
        several: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": AHEAD}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # as was asked for
            loader: DataLoader[Any] = DataLoader(
                self.made,  # type: ignore[arg-type]
                batch_sampler=asked,  # type: ignore[arg-type]
                num_workers=self.workers,
                collate_fn=_as_they_are,
                pin_memory=self.pin,
                worker_init_fn=_begin,
                generator=torch.Generator(),  # torch draws a seed for workers, which nobody uses
                **(several if self.workers else {}),
            )
        return loader, asked


def _one_is_dead(stream: Any) -> bool:
    """Whether a worker of torch's iterator ended; its processes have no public name."""
    ends = [worker.sentinel for worker in getattr(stream, "_workers", ())]
    return bool(ends) and bool(connection.wait(ends, PATIENCE))


def _died(error: Exception) -> SteppeError:
    return SteppeError(
        "worker processes must live while images are read",
        got=" ".join(str(error).split())[:200],
        way_out="fewer workers (data.workers) or a smaller batch, more memory, or a larger "
        "/dev/shm (docker run --shm-size)",
    )


@contextlib.contextmanager
def _no_new_handler(number: signal.Signals) -> Iterator[None]:
    """Take back the handler that torch installs.

    It raises wherever the process is when a worker dies, in the midst of a step or of a file that
    is written. Without it the death is told where the next batch is waited for.
    """
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if before is not None and signal.getsignal(number) is not before:
            signal.signal(number, before)


def _as_they_are(batch: Any) -> Any:
    return batch


def _begin(worker: int) -> None:
    """Ctrl-C is for the process that reads; its end is theirs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
