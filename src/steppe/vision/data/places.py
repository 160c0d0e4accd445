"""Where parquet files lie: on this machine, or where fsspec reaches (the hub, S3, ...)."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from glob import has_magic
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.vision.data.cache import stamp

SPOOL_BYTES = 512 * 2**20
"""So many bytes of row groups from elsewhere are kept on disk; the oldest go first."""


class Place(Protocol):
    """How the files of a dataset are opened."""

    def opened(self, name: str) -> Any:
        """What ``pyarrow.parquet.ParquetFile`` takes."""

    def key(self, names: Sequence[str]) -> str:
        """A text that changes whenever the files do."""

    def group(self, name: str, read: Callable[[], Any]) -> Any:
        """A table that ``read`` fetches, or that was fetched by that name before."""


class Here:
    """Files on this machine."""

    def opened(self, name: str) -> str:
        return name

    def key(self, names: Sequence[str]) -> str:
        return stamp(map(Path, names))

    def group(self, name: str, read: Callable[[], Any]) -> Any:
        return read()


class Elsewhere:
    """Files behind a URL of fsspec. Worker processes share what they fetch through a folder.

    Args:
        url: e.g. ``hf://datasets/org/name``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.folder = tempfile.mkdtemp(prefix="steppe-row-groups-")
        weakref.finalize(self, _remove, self.folder, os.getpid())

    def opened(self, name: str) -> Any:
        return self._system().open(name, "rb", cache_type="none")

    def key(self, names: Sequence[str]) -> str:
        system = self._system()
        return "\n".join(f"{name}:{system.ukey(name)}" for name in names)

    def group(self, name: str, read: Callable[[], Any]) -> Any:
        """Fetched once by all processes that have a copy of this, then mapped into memory."""
        import fcntl

        pa = require("pyarrow", install="pyarrow", purpose="reading parquet files")
        path = Path(self.folder, f"{blake2b(name.encode(), digest_size=16).hexdigest()}.arrow")
        with open(path.with_suffix(".lock"), "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # another process may be fetching it
            try:
                return _mapped(pa, path)
            except FileNotFoundError:
                pass
            table, aside = read(), path.with_suffix(f".{os.getpid()}.part")
            with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
                file.write_table(table)
            found = _mapped(pa, aside)
            aside.replace(path)
        self._make_room()
        return found

    def files(self) -> list[str]:
        """The parquet files below the URL, sorted; of a pattern; or beside a file.

        Raises:
            SteppeError: there is no such file system, or it does not answer.
        """
        try:
            system, path = self._system(), self._path()
            if not has_magic(path):
                path = str(PurePosixPath(path).parent) if path.endswith(".parquet") else path
                path = f"{path.rstrip('/')}/**/*.parquet"
            return sorted(str(one) for one in system.glob(path) if str(one).endswith(".parquet"))
        except Exception as error:  # of the library behind it, which has its own kinds
            raise self._unreachable(error) from error

    def _system(self) -> Any:
        """Made anew in every process, as connections cannot be shared; fsspec keeps it."""
        return self._fsspec().core.url_to_fs(self.url)[0]

    def _path(self) -> str:
        return str(self._fsspec().core.url_to_fs(self.url)[1])

    def _fsspec(self) -> Any:
        return require("fsspec", install="fsspec", purpose="reading files from elsewhere")

    def _make_room(self) -> None:
        """What is mapped in another process stays readable there after its name is gone."""
        there = sorted((s.st_mtime_ns, s.st_size, p) for p, s in _stats(Path(self.folder)))
        excess = sum(size for _, size, _ in there) - SPOOL_BYTES
        for _, size, path in there[:-1]:
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size

    def _unreachable(self, error: Exception) -> SteppeError:
        return SteppeError(
            "a URL of a dataset must be one that fsspec can list",
            got=f"{self.url} ({type(error).__name__}: {' '.join(str(error).split())[:300]})",
            way_out="check the address and the network, or install what serves that protocol",
        )


HERE = Here()


def is_url(name: str) -> bool:
    """Whether a name says where it lies by a protocol.

    Example:
        >>> is_url("hf://datasets/org/name"), is_url("package.module:function")
        (True, False)
    """
    return re.match(r"[a-zA-Z][\w+.-]*://", name) is not None


def _mapped(pa: Any, path: Path) -> Any:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _stats(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for path in folder.glob("*.arrow"):
        try:
            found.append((path, path.stat()))
        except FileNotFoundError:  # another process made room
            continue
    return found


def _remove(folder: str, owner: int) -> None:
    """Copies in worker processes take nothing away."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
