"""What a run shows while it works, and the memory that it took."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Watch = Callable[[str, int, int, str], None]
_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Whatever long happens inside tells how far it is.

    Args:
        watch: called with what is done, how much of it, of how much, and in which unit.

    Example:
        >>> with watched(lambda what, done, of, unit: print(f"{what}: {done} of {of} {unit}")):
        ...     advanced("perplexity", 1, 4)
        perplexity: 1 of 4 windows
    """
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def advanced(what: str, done: int, of: int, unit: str = "windows") -> None:
    """Tell who watches, if anybody does.

    Args:
        what: in a few words; the same from the first call to the last.
        done: how much of it.
        of: how much there is.
        unit: of both.
    """
    watch = _watch.get()
    if watch is not None:
        watch(what, done, of, unit)


def progress_bar(wanted: bool) -> Progress:
    """A bar with counts and times on standard error, drawn only on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not (wanted and sys.stderr.isatty()),
        refresh_per_second=4,
    )


def peak_memory() -> int:
    """Bytes: what torch held at most on the GPU, or the process on the CPU."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
