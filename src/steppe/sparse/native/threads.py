"""One pool of threads for torch and the kernels: the OpenMP library that torch has loaded."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Pool:
    """Where threads come from.

    Args:
        address: of GOMP_parallel; None where torch has none, and one thread does all.
        said: which library it is of, or why there is none.
    """

    address: int | None
    said: str


def pool() -> Pool:
    """GOMP_parallel as torch itself would find it; nothing is loaded for it.

    It is looked up through torch's own library, so that of several OpenMP libraries in the process
    (scikit-learn brings one) it is torch's. LLVM's and Intel's have the function too.
    """
    own = Path(torch.__file__).parent / "lib"
    for name in (own / "libtorch_cpu.so", own / "libtorch_cpu.dylib", "libtorch_cpu.so"):
        try:
            torchs = ctypes.CDLL(str(name), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            address = ctypes.cast(torchs.GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
        return Pool(address, f"threads of {_library_at(address or 0)}, as torch's")
    return Pool(None, "one thread: torch has loaded no OpenMP library with GOMP_parallel")


def threads() -> int:
    """How many threads a product may use now: as many as torch would."""
    return torch.get_num_threads()


def _library_at(address: int) -> str:
    """The file that is mapped at an address."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "an OpenMP library"
    for line in maps.splitlines():
        region, *_, name = line.split(maxsplit=5)
        first, last = (int(number, 16) for number in region.split("-"))
        if first <= address < last:
            return name.strip()
    return "an OpenMP library"
