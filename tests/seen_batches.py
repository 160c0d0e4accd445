"""What a run trains on, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor

from steppe.vision.loader import Loader

Seen = dict[tuple[int, int], tuple[Tensor, Tensor]]
"""Epoch and batch -> images and labels."""


@contextmanager
def seen() -> Iterator[Seen]:
    """The batches that shuffled loaders of images give inside."""
    batches: Seen = {}
    epoch = Loader.epoch

    def watched(self: Loader, number: int, start: int = 0) -> Any:
        for batch, (x, y) in enumerate(epoch(self, number, start), start):
            if self.shuffle:
                batches[number, batch] = x.clone(), y.clone()
            yield x, y

    with patch.object(Loader, "epoch", watched):
        yield batches
