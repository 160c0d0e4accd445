"""Decoded images kept in a safetensors file, so that a second start is fast."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import __version__ as pil
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

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
    before = len(rows.notes)
    images = rows.decode(chosen)
    folder.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed: a killed run, or a second one beside it, leaves no half file.
    aside = file.with_suffix(f".{os.getpid()}.part")
    save_file({"images": images}, aside, {"notes": json.dumps(rows.notes[before:])})
    aside.replace(file)
    return images
