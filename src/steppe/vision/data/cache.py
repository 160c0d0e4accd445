"""Decoded images kept in a safetensors file, so that a second start is fast."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import __version__ as pil
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from steppe.vision.data.base import Rows

_FORMAT = 1  # raise it when decode() changes what it returns


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
        [len(chosen), c, h, w], uint8.
    """
    if folder is None or not rows.key:
        return rows.decode(chosen)
    digest = hashlib.sha256(f"{_FORMAT}\n{pil}\n{rows.key}\n".encode())
    digest.update(np.asarray(chosen, dtype="<i8").tobytes())
    file = folder / f"images-{digest.hexdigest()[:24]}.safetensors"
    try:
        cached: Tensor = load_file(file)["images"]
        return cached
    except (FileNotFoundError, SafetensorError, KeyError):
        pass  # absent or cut short: decode and write it anew
    images = rows.decode(chosen)
    folder.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed: a killed run, or a second one beside it, leaves no half file.
    aside = file.with_suffix(f".{os.getpid()}.part")
    save_file({"images": images}, aside)
    aside.replace(file)
    return images
