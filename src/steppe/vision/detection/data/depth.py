"""Images of more than 8 bits: which of their values are black and white."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from steppe.vision.data.decode import DEEP_COLOUR, notes_of
from steppe.vision.data.levels import Blob, Levels, Reading
from steppe.vision.detection.data.base import Picture
from steppe.vision.detection.data.images import Header, Stored, decoded, whole


class Depths:
    """What the headers of many images say, gathered one by one."""

    def __init__(self) -> None:
        self._properties: Counter[str] = Counter()
        self._deep: tuple[Stored, str] | None = None
        self._coloured: list[tuple[Stored, str]] = []

    def add(self, own: Header, image: Stored, where: str) -> None:
        """One more.

        Args:
            own: its header.
            image: as it is stored.
            where: words for an error message.
        """
        self._properties.update(own.properties)
        if own.deep and self._deep is None:
            self._deep = (image, where)
        if DEEP_COLOUR in own.properties:
            self._coloured.append((image, where))

    def levels(
        self, reading: Reading, every: Sequence[Iterable[Picture]]
    ) -> tuple[Levels, list[str]]:
        """The levels of a dataset, and what is to be said of them.

        Where an image is deep all of the dataset are looked at, so that its range depends on no
        selection; deep colours are decoded here, as their lower bits are lost.

        Args:
            reading: how values become pixels.
            every: all images of all splits, selected or not.

        Raises:
            SteppeError: which values are black and white cannot be seen, or all are nearly black.
        """
        levels = Levels(reading)
        if self._deep is not None:
            for part in every:
                levels.add(partial(_blobs, part))
            levels.settle(whole(self._deep[0]), self._deep[1])
        most = max((_most(*one, levels) for one in self._coloured), default=0)
        return levels, [*levels.notes, *notes_of(self._properties, reading.background, most)]


def _blobs(pictures: Iterable[Picture]) -> Iterator[tuple[Blob, str]]:
    return ((whole(one.image), one.where) for one in pictures)


def _most(image: Stored, where: str, levels: Levels) -> int:
    """The highest level of an image."""
    return int(np.asarray(decoded(image, where, levels)).max())
