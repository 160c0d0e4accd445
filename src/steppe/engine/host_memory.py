"""Freed memory goes back to the system between blocks, and is used again where a model computes."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # glibc's names for mallopt
_USUAL = 32 << 20, 64 << 20
"""What glibc's own rule comes to with large tensors; that rule ends when either is set."""
_MAPPED, _REUSED = (1 << 20, 128 << 10), (32 << 20, 1 << 30)
_open: list[tuple[int, int]] = []  # the C library's setting is the process's, and so is this


def mapped() -> contextlib.AbstractContextManager[None]:
    """Inside, large tensors are mappings of their own, which go when they are freed.

    glibc raises its threshold for that to 32 MB with each larger tensor that is freed, and then
    cuts a block's middle-sized tensors from heaps, which what outlives them keeps in pieces.
    Measured on a Llama with 17 MB a block: private memory grew by 98 MB over 4 blocks and by 248
    over 16, with this by 58 and 57. (malloc_trim after each block returns pages, 106 and 82, but
    not address space, which counts under RLIMIT_DATA.) Other C libraries need none of this.
    Inside `reused` it changes nothing.
    """
    return contextlib.nullcontext() if _REUSED in _open else _within(_MAPPED)


def reused() -> contextlib.AbstractContextManager[None]:
    """Inside, memory that is freed is kept and used again; at the end it is given back.

    A mapping for each intermediate result would cost a page fault for each of its pages: half of
    the time of a block's forward and backward pass, measured, and two thirds of that of a step of
    a whole model. Inside itself it changes nothing.
    """
    return contextlib.nullcontext() if _REUSED in _open else _within(_REUSED)


@contextlib.contextmanager
def _within(setting: tuple[int, int]) -> Iterator[None]:
    _open.append(setting)
    _set(*setting)
    try:
        yield
    finally:
        _open.pop()
        _set(*(_open[-1] if _open else _USUAL))
        with contextlib.suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).malloc_trim(0)


def _set(mapping: int, trim: int) -> None:
    with contextlib.suppress(OSError, AttributeError, TypeError):
        c = ctypes.CDLL(None)
        c.mallopt(_MMAP_THRESHOLD, mapping)
        c.mallopt(_TRIM_THRESHOLD, trim)
