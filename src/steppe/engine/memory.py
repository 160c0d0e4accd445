"""Freed memory goes back to the system between two blocks."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim; other C libraries have none and need none."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
        return found
    except (OSError, AttributeError, TypeError):
        return None


def give_back() -> None:
    """Return freed memory to the system.

    glibc keeps what was freed below its mmap threshold, which grows to 32 MB: the middle-sized
    tensors of a block, cut into pieces by what outlives them. Measured on a Llama with 243 MB a
    block, 100 to 350 MB more after the third block than after the first, with the same tensors
    alive; with this call the process is as large after each block, to the megabyte.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
