"""The system's C compiler: which one there is, and how it makes a library of the sources."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from .interface import Uncompilable, Unusable

SOURCES = Path(__file__).resolve().parent
SECONDS = 600  # for one file; a compiler that needs longer hangs
# never -ffast-math: NaN, infinities and -0.0 are weights as others are
FLAGS = ("-O3", "-std=c11", "-fPIC", "-fno-math-errno")
_DECIDES_CODE = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ", "isa")
WAY_OUT = "install gcc or clang, or name one in STEPPE_SPARSE_CC"


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """What the file ``kernels_<name>.c`` is compiled with.

    Args:
        machine: ``"x86-64"``, ``"arm64"``, or empty for any.
        flags: for the compiler.
    """

    machine: str
    flags: tuple[str, ...]


_AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mpopcnt")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
_AVX512VBMI2 = (*_AVX512, "-mavx512vbmi2", "-mavx512bf16", "-mavx512vnni")
INSTRUCTION_SETS = {
    "portable": InstructionSet("", ()),
    "avx2": InstructionSet("x86-64", _AVX2),
    "avx512": InstructionSet("x86-64", _AVX512),
    "avx512vbmi2": InstructionSet("x86-64", _AVX512VBMI2),
    "neon": InstructionSet("arm64", ()),
}
_MACHINES = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C compiler that answers.

    Args:
        command: what starts it, with options of the user's.
        version: the first line that it says of itself.
        machine: what it compiles for, ``"x86-64"``, ``"arm64"`` or another.
    """

    command: tuple[str, ...]
    version: str
    machine: str


@dataclass(frozen=True, slots=True)
class Parts:
    """What came of compiling.

    Args:
        objects: the files to link.
        instruction_sets: that are in.
        left_out: the others, each with the reason.
    """

    objects: list[Path]
    instruction_sets: list[str]
    left_out: dict[str, str] = field(default_factory=dict)


def machine_of(name: str) -> str:
    """One name for what is called differently, such as aarch64 and arm64."""
    return _MACHINES.get(name.lower(), name)


def this_machine() -> str:
    """The kind of processor that this process runs on, ``"x86-64"``, ``"arm64"`` or another."""
    return machine_of(platform.machine())


@cache
def processor(described: Path = Path("/proc/cpuinfo")) -> str:
    """A hash of what the system says that this processor is and can do."""
    try:
        lines = described.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = [f"model {platform.processor()}"]
    told = dict.fromkeys(line for line in lines if line.startswith(_DECIDES_CODE))
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def compiler(environment: Mapping[str, str] = os.environ) -> Compiler:
    """The first C compiler that answers: STEPPE_SPARSE_CC alone if set, or CC, cc, gcc, clang.

    Raises:
        Unusable: there is none; says what was tried.
    """
    forced = environment.get("STEPPE_SPARSE_CC")
    names = [forced] if forced else [environment.get("CC", ""), "cc", "gcc", "clang"]
    for name in filter(None, names):
        if answer := _asked(name, environment.get("PATH", os.defpath)):
            return answer
    tried = f"STEPPE_SPARSE_CC={forced}" if forced else ", ".join(filter(None, names))
    raise Unusable(f"no C compiler answers (tried {tried}); {WAY_OUT}")


def _asked(name: str, path: str) -> Compiler | None:
    try:
        first, *options = shlex.split(name)
    except ValueError:
        return None
    program = shutil.which(first, path=path)
    if program is None:
        return None
    command = (program, *options)
    try:
        version = _run([*command, "--version"]).splitlines()[0]
        target = _run([*command, "-dumpmachine"]).strip()
    except (Unusable, IndexError):
        return None
    return Compiler(command, version, machine_of(target.split("-")[0]))


def library(compiler: Compiler, into: Path, *, sources: Path = SOURCES) -> tuple[Path, Parts]:
    """Compile the sources into one shared library.

    Args:
        compiler: the one to use.
        into: a folder for objects and library.
        sources: the folder of the C files.

    Returns:
        The library's path, and what is in it.

    Raises:
        Uncompilable: a file that is always needed does not compile, or linking fails.
    """
    parts = objects(compiler, into, sources=sources)
    path = into / "steppe_sparse.so"
    names = [str(part) for part in parts.objects]
    _run([*compiler.command, "-shared", "-o", str(path), *names, "-lm"])
    return path, parts


def objects(
    compiler: Compiler, into: Path, *, sources: Path = SOURCES, more: Sequence[str] = ()
) -> Parts:
    """Compile each file by itself, the kernels with the flags of their instruction sets.

    Kernels of other machines, and those that this compiler cannot compile, are left out. Those that
    are in are told to the other files: ``-DSPS_WITH_AVX2`` and so on.

    Args:
        compiler: the one to use.
        into: a folder for the objects.
        sources: the folder of the C files.
        more: flags for all files.

    Raises:
        Uncompilable: a file that is always needed does not compile.
    """
    kernels, others, left_out = {}, [], {}
    for file in sorted(sources.glob("*.c")):
        prefix, _, name = file.stem.partition("_")
        if prefix != "kernels":
            others.append(file)
        elif INSTRUCTION_SETS[name].machine in ("", compiler.machine):
            kernels[name] = file
        else:
            left_out[name] = f"is of {INSTRUCTION_SETS[name].machine}"
    common = [*FLAGS, *more]
    with ThreadPoolExecutor(max(1, min(len(kernels), os.cpu_count() or 1))) as pool:
        tried = {
            name: pool.submit(
                _object, compiler, file, into, [*common, *INSTRUCTION_SETS[name].flags]
            )
            for name, file in kernels.items()
        }
    compiled = []
    for name, future in tried.items():
        try:
            compiled.append(future.result())
        except Unusable as error:
            left_out[name] = str(error)
    if "portable" in left_out:
        raise Uncompilable(left_out["portable"])
    included = [name for name in kernels if name not in left_out]
    told = [f"-DSPS_WITH_{name.upper()}" for name in included]
    compiled += [_object(compiler, file, into, [*common, *told]) for file in others]
    return Parts(compiled, included, left_out)


def _object(compiler: Compiler, file: Path, into: Path, flags: Sequence[str]) -> Path:
    out = into / f"{file.stem}.o"
    _run([*compiler.command, *flags, "-c", str(file), "-o", str(out)])
    return out


def _run(command: Sequence[str]) -> str:
    """What a command prints.

    Raises:
        Uncompilable: it fails; says its first error.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Uncompilable(f"{command[0]}: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise Uncompilable(f"does not compile with {command[0]}: {' '.join(first.split())[:300]}")
    return done.stdout
