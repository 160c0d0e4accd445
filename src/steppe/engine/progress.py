"""What a run shows while it works, and the memory that it took."""

from __future__ import annotations

import resource
import sys

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
