"""One pool of threads for torch and the kernels: the OpenMP library that torch has loaded."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

import torch

PROCESSES = Path("/proc")
_FORKED = 0x40  # the kernel's PF_FORKNOEXEC


@dataclass(frozen=True, slots=True)
class Pool:
    """Where threads come from.

    Args:
        address: of GOMP_parallel; None where torch has none, and one thread does all.
        said: which library it is of, or why there is none.
    """

    address: int | None
    said: str


OF_A_FORK = Pool(None, "one thread: this process was forked, and its parent's threads are not here")


def pool() -> Pool:
    """GOMP_parallel as torch itself would find it; nothing is loaded for it.

    It is looked up through torch's own library, so that of several OpenMP libraries in the process
    (scikit-learn brings one) it is torch's. LLVM's and Intel's have the function too.

    A forked process has none: the threads that OpenMP had in its parent have not come along, and
    GNU's waits for them for ever.
    """
    own = Path(torch.__file__).parent / "lib"
    for name in (own / "libtorch_cpu.so", own / "libtorch_cpu.dylib", "libtorch_cpu.so"):
        try:
            torchs = ctypes.CDLL(str(name), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            address = ctypes.cast(torchs.GOMP_parallel, ctypes.c_void_p).value or 0
        except (OSError, AttributeError):
            continue
        if _fork.seen or _came_with_a_fork(address):
            return OF_A_FORK
        return Pool(address, f"threads of {_library_at(address)}, as torch's")
    return Pool(None, "one thread: torch has loaded no OpenMP library with GOMP_parallel")


def threads() -> int:
    """How many threads a product may use now: as many as torch would."""
    return torch.get_num_threads()


class _Fork:
    """Whether this process was forked after steppe was imported."""

    seen = False

    def now(self) -> None:
        self.seen = True


_fork = _Fork()
os.register_at_fork(after_in_child=_fork.now)


def _came_with_a_fork(address: int) -> bool:
    """Whether the library at an address was in the process that this one was forked from.

    Linux says of a process whether it was forked and has not started another program since. One
    that loaded torch itself, such as a server's worker, has threads of its own: its parent runs the
    same Python and has no torch at that place. Of a parent that has ended nobody knows.
    """
    try:
        stat = (PROCESSES / "self" / "stat").read_text(encoding="utf-8")
        parent, flags = (int(stat.rpartition(")")[2].split()[place]) for place in (1, 6))
        if not flags & _FORKED:
            return False
        python = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, ctypes.c_void_p).value or 0
        is_parent = _mapped_at(python, parent) == _mapped_at(python)
        return not is_parent or _mapped_at(address, parent) == _mapped_at(address)
    except OSError:
        return PROCESSES.exists()


def _library_at(address: int) -> str:
    """The file that is mapped at an address."""
    try:
        return _mapped_at(address) or "an OpenMP library"
    except OSError:
        return "an OpenMP library"


def _mapped_at(address: int, process: int | str = "self") -> str:
    """The file that a process has at an address, or nothing."""
    maps = PROCESSES / str(process) / "maps"
    for line in maps.read_text(encoding="utf-8", errors="replace").splitlines():
        region, *_, name = line.split(maxsplit=5)
        first, last = (int(number, 16) for number in region.split("-"))
        if first <= address < last:
            return name.strip()
    return ""
