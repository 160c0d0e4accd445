"""Decoded images kept in a safetensors file, so that a second start is fast."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import __version__ as pil
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.serialization import atomic
from steppe.vision.data.base import Rows

_FORMAT = 2  # raise it when decode() changes what it returns


def stamp(files: Iterable[Path]) -> str:
    """A text that changes when a file's path, size or modification time does.

    Example:
        >>> stamp([])
        ''
    """
    stats = ((file.resolve(), file.stat()) for file in files)
    return "\n".join(f"{file}:{s.st_size}:{s.st_mtime_ns}" for file, s in stats)


def decoded(rows: Rows, chosen: Sequence[int], folder: Path | None) -> Tensor:
    """The chosen images, from the cache where it has them.

    Args:
        rows: where the images are; an empty ``rows.key`` is never cached.
        chosen: row numbers.
        folder: of the cache; None decodes every time. Created if missing.

    Returns:
        [len(chosen), c, h, w], uint8. What is worth saying of them is in ``rows.notes``, from the
        cache too.

    Raises:
        SteppeError: the cache is no folder that can be written to; whatever decoding raises.
    """
    key = "" if folder is None else rows.key()
    if folder is None or not key:
        return rows.decode(chosen)
    digest = hashlib.sha256(f"{_FORMAT}\n{pil}\n{key}\n".encode())
    digest.update(np.asarray(chosen, dtype="<i8").tobytes())
    file = folder / f"images-{digest.hexdigest()[:24]}.safetensors"
    try:
        with safe_open(file, framework="pt") as stored:
            cached: Tensor = stored.get_tensor("images")
            rows.notes.extend(json.loads(stored.metadata()["notes"]))
        return cached
    except (OSError, SafetensorError, LookupError, TypeError, ValueError):
        pass  # absent or damaged: decode and write it anew
    require_writable(folder)
    before = len(rows.notes)
    images = rows.decode(chosen)
    with written(file) as aside:
        save_file({"images": images}, aside, {"notes": json.dumps(rows.notes[before:])})
    return images


def require_writable(folder: Path) -> None:
    """Make the folder of a cache, before what it shall keep is read for hours.

    Raises:
        SteppeError: it cannot be made, or nothing can be written to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(error) from error
    if not os.access(folder, os.W_OK):
        raise _unusable(f"nothing can be written to {folder}")


@contextmanager
def written(file: Path) -> Iterator[Path]:
    """Where a file of a cache is written; it has its name when it is whole.

    A killed run, or a second one beside it, leaves no half file.

    Raises:
        SteppeError: the disk is full or the folder cannot be written.
    """
    try:
        with atomic(file) as aside:
            yield aside
    except SteppeError as error:  # which speaks of the folder of a run
        raise _unusable(error.got) from error


def _unusable(got: object) -> SteppeError:
    return SteppeError(
        "data.cache is a folder that can be written to, on a disk with space",
        got=got,
        way_out="another folder as data.cache, or leave it out",
    )
