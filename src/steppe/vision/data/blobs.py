"""Encoded images of a split by their number, wherever they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from steppe.vision.data.levels import Blob


class Blobs:
    """Random access to encoded images; worker processes get a copy, so it can be pickled.

    A subclass says `blob`, `describe` and ``__len__``; the rest has an answer here.
    """

    def __len__(self) -> int:
        raise NotImplementedError

    def blob(self, row: int) -> Blob:
        """One image."""
        raise NotImplementedError

    def drawn(self, row: int, seed: int) -> Blob:
        """One image, where reading it draws random numbers: they are a function of the seed."""
        return self.blob(row)

    def describe(self, row: int) -> str:
        """An image in words, for a message."""
        raise NotImplementedError

    def in_order(self, rows: Sequence[int]) -> Iterator[Blob]:
        """Images of ascending rows."""
        return map(self.blob, rows)

    def key(self) -> str:
        """A text that changes whenever the images do; empty where that is not known."""
        return ""

    def order(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """In which order an epoch visits images.

        Args:
            rows: that take part, ascending.
            generator: of the epoch.

        Returns:
            Positions in ``rows``, each once; here any order is as likely as another.
        """
        return torch.randperm(len(rows), generator=generator)

    def named(self) -> Iterator[tuple[Blob, str]]:
        """Every image, and what it is called."""
        rows = range(len(self))
        return (
            (blob, self.describe(row)) for row, blob in zip(rows, self.in_order(rows), strict=True)
        )


class Names:
    """Many short texts in two arrays: a list of a million of them would take ten times the bytes.

    It would also be copied into every worker process, as counting a reference writes to it.

    Args:
        texts: to keep.

    Example:
        >>> names = Names(["a.png", "bc.png"])
        >>> names[1], len(names)
        ('bc.png', 2)
    """

    def __init__(self, texts: Sequence[str]) -> None:
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(i)
        start, end = self._ends[i], self._ends[i + 1]
        return self._bytes[start:end].tobytes().decode("utf-8", "surrogateescape")
