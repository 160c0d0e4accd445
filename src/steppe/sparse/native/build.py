"""The library of kernels: carried by a wheel, or compiled once for this machine and kept.

A cache folder holds, for each hash of what decides the library (sources, flags, compiler, kind of
processor), a folder with the library and a record of it. The record holds the library's hash and
is written last, so that a library without its right record counts as none.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .compiler import (
    FLAGS,
    INSTRUCTION_SETS,
    SOURCES,
    Compiler,
    compiler,
    library,
    processor,
    this_machine,
)
from .interface import ABI, Uncompilable, Unusable, load

CARRIED = SOURCES / "_lib"
OWN = "name a folder of your own in STEPPE_SPARSE_CACHE"
NAME, RECORD = "steppe_sparse.so", "record.json"
KEPT, DAYS = 8, 90  # libraries in a cache, and how long one that nobody loads stays
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of a compiled library.

    Args:
        sources: hash of what it was compiled from, and how.
        digest: hash of the library itself.
        machine: the kind of processor it is for.
        processor: the only one it is for, or empty.
        compiled_by: the compiler's name of itself.
        instruction_sets: that are in.
        left_out: the others -> why.
    """

    sources: str
    digest: str
    machine: str
    processor: str
    compiled_by: str
    instruction_sets: list[str]
    left_out: dict[str, str]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A library in this process.

    Args:
        functions: of the C interface.
        path: where it was loaded from; a private one is gone again.
        record: what is known of it.
        said: what did not go the usual way on the way here, or empty.
    """

    functions: ctypes.CDLL
    path: Path
    record: Record
    said: str


def loaded(environment: Mapping[str, str] = os.environ) -> Loaded:
    """The library that this machine can use: carried, kept, or compiled now.

    Raises:
        Unusable: there is none; in one sentence, why.
    """
    said = []
    if (CARRIED / RECORD).is_file():
        try:
            return _carried()
        except Unusable as error:
            said.append(str(error))
    try:
        chosen = compiler(environment)
    except Unusable as error:
        return _made_before(environment, said, str(error))
    try:
        folder = cache_folder(environment) / key(chosen)
        return _kept_or_compiled(folder, chosen, "; ".join(said))
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        said.append(f"compiled for this process alone, since nothing can be kept: {error}")
    except Uncompilable:
        raise
    except Unusable as error:
        said.append(f"compiled for this process alone: {error}")
    return _private(chosen, "; ".join(said))


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """STEPPE_SPARSE_CACHE, or ``steppe/native`` in XDG_CACHE_HOME or ``~/.cache``."""
    if named := environment.get("STEPPE_SPARSE_CACHE"):
        return Path(named)
    home = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "steppe" / "native"


def sources_hash(sources: Path = SOURCES) -> str:
    """Of the C files and the flags that they are compiled with."""
    flags = {name: [s.machine, *s.flags] for name, s in INSTRUCTION_SETS.items()}
    digest = hashlib.sha256(json.dumps([ABI, FLAGS, flags], sort_keys=True).encode())
    for file in sorted(f for f in sources.iterdir() if f.suffix in {".c", ".h"}):
        digest.update(f"\0{file.name}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def key(compiler: Compiler, sources: Path = SOURCES) -> str:
    """The name of a library's folder: a hash of all that decides it."""
    decided_by = [
        sources_hash(sources),
        compiler.version,
        *compiler.command[1:],
        compiler.machine,
        this_machine(),
        _only_for(compiler),
    ]
    return hashlib.sha256(json.dumps(decided_by).encode()).hexdigest()[:32]


def compiled(compiler: Compiler, folder: Path, sources: Path = SOURCES) -> Record:
    """Compile into a folder that holds the library and its record afterwards.

    A folder that is made for it is the user's alone.

    Raises:
        Uncompilable: the compiler refuses.
        OSError: the folder cannot be written.
    """
    _make_own(folder)
    workshop = folder / "building"  # a process that was killed here has left it
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir()
    try:
        path, parts = library(compiler, workshop, sources=sources)
        record = Record(
            sources=sources_hash(sources),
            digest=_digest(path),
            machine=compiler.machine,
            processor=_only_for(compiler),
            compiled_by=compiler.version,
            instruction_sets=parts.instruction_sets,
            left_out=parts.left_out,
        )
        written = workshop / RECORD
        written.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
        path.chmod(0o755)  # whatever files are made with here
        os.replace(path, folder / NAME)
        os.replace(written, folder / RECORD)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return record


def _only_for(compiler: Compiler) -> str:
    """The processor, where options of the user's, such as -march=native, may bind code to it."""
    return processor() if compiler.command[1:] else ""


def _carried() -> Loaded:
    """What lies in the package; a tool for wheels may have rewritten the library since."""
    record = _record(CARRIED)
    if record.sources != sources_hash():
        raise Unusable("the kernels that the package carries are of other sources")
    return Loaded(load(CARRIED / NAME), CARRIED / NAME, record, "")


def _kept_or_compiled(folder: Path, compiler: Compiler, said: str) -> Loaded:
    """From the cache; what is damaged there is compiled again, by one process while others wait."""
    with contextlib.suppress(Unusable):
        return _kept(folder, said)
    _make_own(folder.parent)
    _check_own(folder.parent)
    with alone(folder):
        with contextlib.suppress(Unusable):
            return _kept(folder, said)
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or others may write there
        compiled(compiler, folder)
        _sweep(folder)
    return _kept(folder, said)


def _kept(folder: Path, said: str) -> Loaded:
    """A library of the cache that is what its record says.

    The hash is compared before anything is loaded: half a library would end the process, and so
    would one with another processor's instructions.
    """
    record, path = _record(folder), folder / NAME
    for one in (folder.parent, folder, path):
        _check_own(one)
    try:
        whole = _digest(path) == record.digest
    except OSError:
        whole = False
    if not whole or record.sources != sources_hash():
        raise Unusable(f"{path} is not what was compiled")
    if record.processor not in ("", processor()):
        raise Unusable(f"{path} is for another processor")
    with contextlib.suppress(OSError):
        os.utime(path)  # in use: not to be swept
    return Loaded(load(path), path, record, said)


def _make_own(folder: Path) -> None:
    """Folders that only their user sees, whatever folders are made with here."""
    for one in (*reversed(folder.parents), folder):
        if not one.is_dir():
            one.mkdir(mode=0o700, exist_ok=True)


def _check_own(path: Path) -> None:
    """That nobody else can put a program of theirs in this place, which would be run.

    Raises:
        Unusable: others may write here, or to a folder above where all may rename all; says who.
    """
    try:
        status = path.stat()
        above = [one for one in path.resolve().parents if _all_may_rename_in(one.stat().st_mode)]
    except OSError as error:
        raise Unusable(f"{path} cannot be looked at ({error})") from error
    if status.st_uid not in (os.geteuid(), 0):
        raise Unusable(f"{path} belongs to another user; {OWN}")
    if status.st_mode & _OTHERS_WRITE:
        raise Unusable(f"others may write to {path}; chmod go-w it, or {OWN}")
    if above:
        raise Unusable(f"others may write to {above[0]}, which is above it; {OWN}")


def _all_may_rename_in(mode: int) -> bool:
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def _sweep(newest: Path) -> None:
    """Remove what other versions, compilers and processors have left in the cache.

    A process that has loaded such a library goes on with it.
    """
    used = {}
    for path in newest.parent.glob(f"*/{NAME}"):
        if re.fullmatch("[0-9a-f]{32}", path.parent.name) and path.parent != newest:
            with contextlib.suppress(OSError):
                used[path.parent] = path.stat().st_mtime
    for place, folder in enumerate(sorted(used, key=lambda one: -used[one]), start=1):
        if place >= KEPT or time.time() - used[folder] > DAYS * 86_400:
            shutil.rmtree(folder, ignore_errors=True)


def _private(compiler: Compiler, said: str) -> Loaded:
    """In a folder that only this process sees, and that is gone once the library is loaded."""
    try:
        with tempfile.TemporaryDirectory(prefix="steppe-") as name:
            record = compiled(compiler, Path(name))
            return Loaded(load(Path(name) / NAME), Path(name) / NAME, record, said)
    except OSError as error:
        raise Unusable(f"no folder for compiled kernels can be written ({error})") from error


def _made_before(environment: Mapping[str, str], said: list[str], why: str) -> Loaded:
    """What some compiler once made of these sources.

    Raises:
        Unusable: nothing, or nothing that may be loaded; says why beside why there is no compiler.
    """
    passed_over = []
    with contextlib.suppress(OSError, RuntimeError):
        for path in sorted(cache_folder(environment).glob(f"*/{RECORD}")):
            with contextlib.suppress(Unusable):
                record = _record(path.parent)
                if (record.machine, record.sources) == (this_machine(), sources_hash()):
                    try:
                        return _kept(path.parent, "; ".join(said))
                    except Unusable as error:
                        passed_over.append(str(error))
    raise Unusable("; ".join(dict.fromkeys([*said, why, *passed_over])))


def _record(folder: Path) -> Record:
    try:
        return Record(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise Unusable(f"{folder} holds no record of a library ({error})") from error


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time; the lock of a dead process is none.

    Raises:
        OSError: the file of the lock cannot be had.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{folder.name}.lock", "a", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
