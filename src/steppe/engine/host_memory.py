"""Freed memory goes back to the system between blocks, and is used again within one."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # glibc's names for mallopt
_LARGE, _LARGEST = 1 << 20, 32 << 20
_open: list[None] = []  # the `reused` that this process is in: the setting is the process's too


def settle() -> None:
    """From now on large tensors are mappings of their own, which go when they are freed.

    glibc raises its threshold for that to 32 MB with each larger tensor that is freed, and then
    cuts a block's middle-sized tensors from heaps, which what outlives them keeps in pieces.
    Measured on a Llama with 17 MB a block: private memory grew by 98 MB over 4 blocks and by 248
    over 16, with this by 58 and 57. (malloc_trim after each block returns pages, 106 and 82, but
    not address space, which counts under RLIMIT_DATA.) Other C libraries need none of this.
    Inside `reused` it waits for the end of that.
    """
    if not _open:
        _set(_LARGE, 128 << 10)


@contextlib.contextmanager
def reused() -> Iterator[None]:
    """Inside, memory that is freed is kept and used again; at the end it is given back.

    A mapping for each intermediate result would cost a page fault for each of its pages: half of
    the time of a block's forward and backward pass, measured. One inside another changes nothing.
    """
    _set(_LARGEST, 1 << 30)
    _open.append(None)
    try:
        yield
    finally:
        _open.pop()
        if not _open:
            _give_back()


def _give_back() -> None:
    settle()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _set(mapping: int, trim: int) -> None:
    with contextlib.suppress(OSError, AttributeError, TypeError):
        c = ctypes.CDLL(None)
        c.mallopt(_MMAP_THRESHOLD, mapping)
        c.mallopt(_TRIM_THRESHOLD, trim)
