"""Freed memory goes back to the system between blocks, and is used again where a model computes."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

import psutil

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # glibc's names for mallopt
_USUAL = 32 << 20, 64 << 20
"""What glibc's own rule comes to with large tensors; once one is set that rule is off for good."""
_MAPPED, _REUSED = (1 << 20, 128 << 10), (32 << 20, 1 << 30)
_lock, _open = threading.Lock(), {_REUSED: 0, _MAPPED: 0}  # of the process, as the setting is


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(psutil.Process().memory_info().rss)


def mapped() -> contextlib.AbstractContextManager[None]:
    """Inside, large tensors are mappings of their own, which go when they are freed.

    glibc raises its threshold for that to 32 MB with each larger tensor that is freed, and then
    cuts a block's middle-sized tensors from heaps, which what outlives them keeps in pieces.
    Measured on a Llama with 17 MB a block: private memory grew by 98 MB over 4 blocks and by 248
    over 16, with this by 58 and 57. (malloc_trim after each block returns pages, 106 and 82, but
    not address space, which counts under RLIMIT_DATA.) Other C libraries need none of this.
    Inside `reused` it changes nothing. It is a setting of the process, with all of its threads.
    """
    return _within(_MAPPED)


def reused() -> contextlib.AbstractContextManager[None]:
    """Inside, memory that is freed is kept and used again; at the end it is given back.

    A mapping for each intermediate result would cost a page fault for each of its pages: half of
    the time of a block's forward and backward pass, measured, and of a whole model's
    (`benchmarks/bench_whole_step.py`).
    """
    return _within(_REUSED)


@contextlib.contextmanager
def _within(setting: tuple[int, int]) -> Iterator[None]:
    _count(setting, 1)
    try:
        yield
    finally:
        _count(setting, -1)


def _count(setting: tuple[int, int], one: int) -> None:
    with _lock:
        before = _now()
        _open[setting] += one
        after = _now()
        if before != after:
            _set(*after)
            if after != _REUSED:  # what is free above what is used goes back
                with contextlib.suppress(OSError, AttributeError, TypeError):
                    ctypes.CDLL(None).malloc_trim(0)


def _now() -> tuple[int, int]:
    return next((setting for setting, count in _open.items() if count), _USUAL)


def _set(mapping: int, trim: int) -> None:
    with contextlib.suppress(OSError, AttributeError, TypeError):
        c = ctypes.CDLL(None)
        c.mallopt(_MMAP_THRESHOLD, mapping)
        c.mallopt(_TRIM_THRESHOLD, trim)
