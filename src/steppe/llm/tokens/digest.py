"""Hashes of what decides tokens: the bytes of a text, and the tokenizer."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steppe.engine.progress import advanced
from steppe.llm.text_files import BLOCK, readable

MEGABYTE = 1_000_000


def of_files(files: Iterable[Path], what: str = "") -> str:
    """SHA-256 of contents, in order; neither names nor dates count, endings do.

    Args:
        files: each is read once, a little at a time.
        what: they are, for those who watch.

    Raises:
        SteppeError: one cannot be read.

    Example:
        >>> of_files([])[:8]
        'e3b0c442'
    """
    whole, done, files = hashlib.sha256(), 0, list(files)
    for file in files:
        with readable(file), open(file, "rb") as opened:
            size = file.stat().st_size
            whole.update(f"{''.join(file.suffixes[-2:])} {size}\n".encode())
            while data := opened.read(BLOCK):
                whole.update(data)
                done += len(data)
                # of small files nobody waits for it
                if what and done % (64 * BLOCK) == 0:
                    advanced(f"reading {what}", done // MEGABYTE, size // MEGABYTE + 1, "MB")
    return whole.hexdigest()


def of_tokenizer(tokenizer: Any) -> str:
    """SHA-256 of all that a tokenizer is made of; not of what it was asked for last.

    Args:
        tokenizer: of transformers.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
            return of_files(files)
    state = json.loads(backend.to_str())
    state |= {"truncation": None, "padding": None, "eos": tokenizer.eos_token_id}
    text = json.dumps([type(tokenizer).__name__, state], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
