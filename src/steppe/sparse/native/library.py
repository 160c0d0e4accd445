"""The kernels as Python calls them: `library()` gives them, or `why_not()` the reason."""

from __future__ import annotations

import ctypes
import os
import threading
from ctypes import byref
from dataclasses import dataclass, replace

from steppe.core.errors import SteppeError, unknown
from steppe.core.notes import note
from steppe.sparse.native.build import loaded
from steppe.sparse.native.interface import (
    MEMORY,
    OK,
    BitsArguments,
    Call,
    IndexArguments,
    Source,
    Unusable,
    instruction_sets,
)
from steppe.sparse.native.threads import OF_A_FORK, Pool, pool

__all__ = ["BitsArguments", "Call", "IndexArguments", "Library", "Source", "library", "why_not"]


@dataclass(frozen=True, slots=True)
class Library:
    """The functions of `steppe_sparse.h`; pointers are addresses.

    Args:
        functions: of the C interface.
        instruction_set: in use: ``"avx512vbmi2"``, ``"avx512"``, ``"avx2"``, ``"neon"`` or
            ``"portable"``.
        instruction_sets: all that work here, best first.
        said: where the library comes from, and what did not go the usual way.
        pool: where its threads come from.
    """

    functions: ctypes.CDLL
    instruction_set: str
    instruction_sets: tuple[str, ...]
    said: tuple[str, ...]
    pool: Pool

    def bits_linear(self, matrix: BitsArguments, call: Call) -> None:
        """``y = x W^T + b`` for a matrix in the layout *bits*."""
        _check(self.functions.sps_bits_linear(byref(matrix), byref(call)))

    def index_linear(self, matrix: IndexArguments, call: Call) -> None:
        """``y = x W^T + b`` for a matrix in the layout *index*."""
        _check(self.functions.sps_index_linear(byref(matrix), byref(call)))

    def bits_unpack(
        self, matrix: BitsArguments, first: int, last: int, out: int, threads: int
    ) -> None:
        """Rows ``first`` to ``last`` of the dense matrix, into ``out``."""
        _check(self.functions.sps_bits_unpack(byref(matrix), first, last, out, threads))

    def index_unpack(
        self, matrix: IndexArguments, first: int, last: int, out: int, threads: int
    ) -> None:
        """Rows ``first`` to ``last`` of the dense matrix, into ``out``."""
        _check(self.functions.sps_index_unpack(byref(matrix), first, last, out, threads))

    def count(self, source: Source, counts: int, threads: int) -> None:
        """How many entries each row of each tile keeps, ``counts[tile][row]``, int64."""
        _check(self.functions.sps_count(byref(source), counts, threads))

    def bits_pack(self, source: Source, offsets: int, bits: int, values: int, threads: int) -> None:
        """Into the layout *bits*; the outputs are zeroed and padded."""
        _check(self.functions.sps_bits_pack(byref(source), offsets, bits, values, threads))

    def index_pack(
        self, source: Source, starts: int, columns: int, values: int, threads: int
    ) -> None:
        """Into the layout *index*; the outputs are zeroed and padded."""
        _check(self.functions.sps_index_pack(byref(source), starts, columns, values, threads))


def library() -> Library | None:
    """The kernels of this process, compiled at the first need; None where none can be had.

    What is missed is warned of once, and so is what must be compiled for this process alone.

    ``STEPPE_SPARSE_ISA`` forces an instruction set, ``STEPPE_SPARSE=off`` takes none,
    ``STEPPE_SPARSE_CC`` names the compiler. All three are read at the first call.

    Raises:
        SteppeError: the instruction set that is forced does not work here.

    Example:
        >>> kernels = library()
        >>> kernels is None or kernels is library()
        True
    """
    if _known.outcome is None:
        with _known.lock:
            if _known.outcome is None:
                _known.outcome = _looked_for()
    return _known.outcome.library


def why_not() -> str:
    """What is missed, in one sentence; empty where there is a library."""
    library()
    assert _known.outcome is not None
    return _known.outcome.why_not


@dataclass(frozen=True, slots=True)
class _Outcome:
    library: Library | None
    why_not: str


class _Known:
    """What this process knows; a forked one knows it too."""

    def __init__(self) -> None:
        self.outcome: _Outcome | None = None
        self.lock = threading.Lock()

    def forked(self) -> None:
        """OpenMP's threads have not come along: a pool that was used before would wait for them."""
        self.lock = threading.Lock()
        if self.outcome is not None and self.outcome.library is not None:
            self.outcome.library.functions.sps_parallel(None)
            self.outcome = _Outcome(replace(self.outcome.library, pool=OF_A_FORK), "")


_known = _Known()
os.register_at_fork(after_in_child=_known.forked)


def _looked_for() -> _Outcome:
    if os.environ.get("STEPPE_SPARSE", "").lower() == "off":
        return _Outcome(None, _missed("STEPPE_SPARSE=off"))
    try:
        kernels = loaded()
    except Unusable as error:
        note(_missed(str(error)), stacklevel=3)  # the line that asks for them
        return _Outcome(None, _missed(str(error)))
    if kernels.said:
        note(f"kernels for zeros: {kernels.said}", stacklevel=3)
    names = instruction_sets(kernels.functions)
    chosen = os.environ.get("STEPPE_SPARSE_ISA") or names[0]
    if kernels.functions.sps_use(chosen.encode()) != OK:
        raise _does_not_work(chosen, names, kernels.record.left_out)
    threads = pool()
    kernels.functions.sps_parallel(threads.address)
    said = (f"{kernels.path}, compiled by {kernels.record.compiled_by}", kernels.said)
    own = Library(kernels.functions, chosen, tuple(names), tuple(filter(None, said)), threads)
    return _Outcome(own, "")


def _missed(why: str) -> str:
    return f"zeros are multiplied by torch's own means, which gain no time: {why}"


def _does_not_work(chosen: str, names: list[str], left_out: dict[str, str]) -> SteppeError:
    if chosen not in left_out:
        return unknown("instruction set in STEPPE_SPARSE_ISA", chosen, names)
    return SteppeError(
        "STEPPE_SPARSE_ISA must name an instruction set that works here",
        got=f"{chosen}, which {left_out[chosen]}",
        way_out=f"one of {', '.join(names)}, or unset it",
    )


def _check(code: int) -> None:
    if code == MEMORY:
        raise MemoryError("no memory for a product with a sparse matrix")
    assert code == OK, f"steppe_sparse: code {code}"
