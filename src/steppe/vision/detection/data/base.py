"""Images with objects: as a reader finds them, and as a network is given them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.vision.data.levels import Levels
from steppe.vision.detection.data.images import Stored, decoded


@dataclass(frozen=True)
class Object:
    """One object of an image, as it was read and not yet checked.

    Args:
        name: of its class.
        box: left, top, right, bottom in pixels, the image from 0 to its width and height.
        flag: 0, or why it counts neither as found nor as missed, see
            `steppe.vision.detection.targets`.
        where: words for an error message, e.g. ``object 3 of a/b.xml``.
        stored: the numbers of its box as they stand there, by their names.
        first: the number of the first pixel there.
    """

    name: str
    box: tuple[float, float, float, float]
    flag: int
    where: str
    stored: Mapping[str, float]
    first: int = 0


@dataclass(frozen=True)
class Picture:
    """An image and its objects, as they were read.

    Args:
        image: its file, or where else it is stored.
        where: words for an error message.
        size: width and height as its annotation says; None where it says nothing.
        objects: in it.
    """

    image: Stored
    where: str
    size: tuple[int, int] | None
    objects: tuple[Object, ...]


class Pictures(Sequence[Picture]):
    """A split whose images with their objects are made as they are asked for."""

    @abstractmethod
    def picture(self, row: int) -> Picture:
        """One of them.

        Args:
            row: of it, from 0.
        """

    @overload
    def __getitem__(self, row: int) -> Picture: ...
    @overload
    def __getitem__(self, row: slice) -> list[Picture]: ...
    def __getitem__(self, row: int | slice) -> Picture | list[Picture]:
        rows = range(len(self))
        return (
            [self.picture(own) for own in rows[row]]
            if isinstance(row, slice)
            else (self.picture(rows[row]))
        )


@dataclass(frozen=True)
class Source:
    """What a reader finds.

    Args:
        train: images to train on.
        test: images to test on.
        classes: names, where the source lists them.
        notes: what is worth saying, in sentences.
    """

    train: Sequence[Picture]
    test: Sequence[Picture]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Scene:
    """An image and its objects, checked.

    Args:
        image: its file, or where else it is stored.
        where: words for an error message.
        size: width and height.
        objects: ``[k, 6]``, see `steppe.vision.detection.targets`.
    """

    image: Stored
    where: str
    size: tuple[int, int]
    objects: Tensor


class Split:
    """The images of one part of a dataset, decoded as they are asked for.

    No value: where images are kept it remembers those that it has decoded.

    Args:
        scenes: its images.
        levels: how their values become pixels, see `steppe.vision.data.levels`.
        keep: decoded images stay in memory.
    """

    def __init__(self, scenes: Sequence[Scene], levels: Levels, keep: bool = False) -> None:
        self.scenes, self.levels, self.keep = scenes, levels, keep
        self._decoded: dict[int, NDArray[np.uint8]] = {}

    def of(self, scenes: Sequence[Scene], keep: bool = False) -> Split:
        """Other images, read as these are.

        Args:
            scenes: the images.
            keep: decoded ones stay in memory.
        """
        return Split(scenes, self.levels, keep)

    @property
    def colour(self) -> bool:
        """Whether they are read with three channels."""
        return self.levels.reading.channels == 3

    def __len__(self) -> int:
        return len(self.scenes)

    def image(self, row: int) -> Image.Image:
        """A decoded image.

        Raises:
            SteppeError: it cannot be decoded.
        """
        if row in self._decoded:
            return Image.fromarray(self._decoded[row])
        scene = self.scenes[row]
        image = decoded(scene.image, scene.where, self.levels)
        if self.keep:
            self._decoded[row] = np.asarray(image)
        return image

    def __iter__(self) -> Iterator[Scene]:
        return iter(self.scenes)


def sides(box: Any, where: str) -> tuple[float, float, float, float]:
    """A box that is stored as left, top, width, height, checked.

    Args:
        box: four numbers.
        where: words for an error message.

    Raises:
        SteppeError: it is something else.

    Example:
        >>> sides([8, 4, 16, 8], "here")
        (8.0, 4.0, 16.0, 8.0)
    """
    try:
        left, top, width, height = map(float, box)
    except (TypeError, ValueError):
        raise SteppeError(
            "a box is left, top, width and height",
            got=f"{box!r} in {where}",
            way_out="write these four numbers of pixels",
        ) from None
    return left, top, width, height


def object_of_sides(
    name: str, box: tuple[float, float, float, float], flag: int, where: str
) -> Object:
    """An object whose box is stored as left, top, width, height.

    Args:
        name: of its class.
        box: see `sides`.
        flag: see `Object`.
        where: words for an error message.
    """
    left, top, width, height = box
    stored = dict(zip(("left", "top", "width", "height"), box, strict=True))
    return Object(name, (left, top, left + width, top + height), flag, where, stored)
