"""Many images with objects, kept small: there may be a million objects."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from steppe.vision.detection.data.base import Scene
from steppe.vision.detection.data.images import Stored
from steppe.vision.detection.targets import COLUMNS


class Scenes(Sequence[Scene]):
    """Images with their objects, of which all are one tensor.

    Args:
        images: where each is stored.
        where: words for error messages, of each.
        sizes: width and height of each, ``[n, 2]``.
        objects: of all images, one after the other, ``[all, 6]``, see
            `steppe.vision.detection.targets`.
        counts: how many are in each, ``[n]``.

    Example:
        >>> from pathlib import Path
        >>> files = [Path("a.png"), Path("b.png")]
        >>> sizes, objects = torch.tensor([[8, 6], [4, 4]]), torch.zeros(3, 6)
        >>> scenes = Scenes(files, ["a", "b"], sizes, objects, torch.tensor([1, 2]))
        >>> len(scenes[0].objects), len(scenes[1:][0].objects), scenes[-1].size
        (1, 2, (4, 4))
    """

    def __init__(
        self,
        images: Sequence[Stored],
        where: Sequence[str],
        sizes: Tensor,
        objects: Tensor,
        counts: Tensor,
    ) -> None:
        assert len(images) == len(where) == len(sizes) == len(counts)
        assert int(counts.sum()) == len(objects)
        self.images, self.where, self.sizes = images, where, sizes
        self.objects, self.counts = objects, counts
        self._ends = counts.cumsum(0)

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, row: int) -> Scene: ...
    @overload
    def __getitem__(self, row: slice) -> Scenes: ...
    def __getitem__(self, row: int | slice) -> Scene | Scenes:
        if isinstance(row, slice):
            first, stop, step = row.indices(len(self))
            assert step == 1, step
            own = slice(first, max(stop, first))
            parts = self.images[own], self.where[own], self.sizes[own]
            return Scenes(*parts, self._objects(own.start, own.stop), self.counts[own])
        place = range(len(self))[row]
        width, height = self.sizes[place].tolist()
        objects = self._objects(place, place + 1)
        return Scene(self.images[place], self.where[place], (width, height), objects)

    def _objects(self, first: int, stop: int) -> Tensor:
        """Those of some images in a row."""
        start = int(self._ends[first - 1]) if first else 0
        return self.objects[start : int(self._ends[stop - 1]) if stop else 0]


class Gathered:
    """Scenes as they are gathered one after the other."""

    def __init__(self) -> None:
        self.images: list[Stored] = []
        self.where: list[str] = []
        self._sizes, self._counts, self._objects = array("q"), array("q"), array("f")

    def add(
        self,
        image: Stored,
        where: str,
        size: tuple[int, int],
        objects: Sequence[Sequence[float]],
    ) -> None:
        """One more.

        Args:
            image: where it is stored.
            where: words for an error message.
            size: width and height.
            objects: rows of six numbers, see `steppe.vision.detection.targets`.
        """
        self.images.append(image)
        self.where.append(where)
        self._sizes.extend(size)
        self._counts.append(len(objects))
        for row in objects:
            self._objects.extend(row)

    def scenes(self) -> Scenes:
        """All of them."""
        sizes, counts = (torch.tensor(own) for own in (self._sizes, self._counts))
        objects = torch.tensor(self._objects).view(-1, COLUMNS)
        return Scenes(self.images, self.where, sizes.view(-1, 2).long(), objects, counts.long())
