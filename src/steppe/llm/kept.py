"""Folders of what is kept from one run to the next, by content."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from steppe.core.errors import SteppeError
from steppe.engine.run_folder import KEPT


def kept(kind: str) -> Path:
    """The folder of one kind of what is kept: ``$XDG_CACHE_HOME/steppe/KIND``.

    Args:
        kind: perplexity, tokens.

    Example:
        >>> os.environ["XDG_CACHE_HOME"] = "/cache"
        >>> kept("tokens").as_posix()
        '/cache/steppe/tokens'
    """
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "steppe" / kind


def made(kind: str, name: str, beside: Path | None = None) -> Path:
    """A folder in the cache; where that cannot be written, one in the run's own folder.

    Args:
        kind: of what is kept.
        name: of the folder.
        beside: the run's folder.

    Raises:
        SteppeError: neither can be written.
    """
    tried: list[str] = []
    for home in (kept(kind), *([beside / KEPT / kind] if beside is not None else [])):
        try:
            folder = home / name
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
            tried.append(f"{folder} (no permission)")
        except OSError as error:
            tried.append(f"{home} ({error.strerror})")
    raise SteppeError(
        f"{kind} are kept in a folder that can be written",
        got=" and ".join(tried),
        way_out="set XDG_CACHE_HOME to another folder",
    )


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Whoever comes second waits here until the first one is done, or dead.

    Where the system has no such locks two work at once: what they write is the same.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
