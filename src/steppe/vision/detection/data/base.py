"""Images with objects: as a reader finds them, and as a network is given them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from steppe.core.errors import SteppeError


class Stored(Protocol):
    """An encoded image on disk: a file, or a cell of a table. It is read when it is needed."""

    def read_bytes(self) -> bytes:
        """The encoded image."""
        ...


@dataclass(frozen=True)
class Object:
    """One object of an image, as it was read and not yet checked.

    Args:
        name: of its class.
        box: left, top, right, bottom in pixels, the image from 0 to its width and height.
        flag: 0, or why it counts neither as found nor as missed, see
            `steppe.vision.detection.targets`.
        where: words for an error message, e.g. ``object 3 of a/b.xml``.
    """

    name: str
    box: tuple[float, float, float, float]
    flag: int
    where: str


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
        colour: whether they are read with three channels.
        keep: decoded images stay in memory.
    """

    def __init__(self, scenes: Sequence[Scene], colour: bool = True, keep: bool = False) -> None:
        self.scenes, self.colour, self.keep = scenes, colour, keep
        self._decoded: dict[int, NDArray[np.uint8]] = {}

    def of(self, scenes: Sequence[Scene], keep: bool = False) -> Split:
        """Other images, read as these are.

        Args:
            scenes: the images.
            keep: decoded ones stay in memory.
        """
        return Split(scenes, self.colour, keep)

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
        image = decoded(scene.image, scene.where, self.colour)
        if self.keep:
            self._decoded[row] = np.asarray(image)
        return image

    def __iter__(self) -> Iterator[Scene]:
        return iter(self.scenes)


def opened(blob: Stored, where: str) -> Image.Image:
    """An image of which only the header is read.

    Raises:
        SteppeError: there is no such file, or it is no image.
    """
    try:
        return Image.open(blob if isinstance(blob, Path) else BytesIO(blob.read_bytes()))
    except FileNotFoundError:
        raise SteppeError("every image of a split must be there", got=f"no {where}") from None
    except (SteppeError, MemoryError):
        raise
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error and more
        raise _undecodable(where, error) from error


def decoded(blob: Stored, where: str, colour: bool) -> Image.Image:
    """The whole image, in colour or in grey.

    Raises:
        SteppeError: it cannot be decoded.
    """
    with opened(blob, where) as image:
        try:
            return image.convert("RGB" if colour else "L")
        except MemoryError:
            raise
        except Exception as error:
            raise _undecodable(where, error) from error


def size_of(blob: Stored, where: str) -> tuple[int, int]:
    """Width and height as stored, from the header alone.

    Raises:
        SteppeError: as `opened`; the image is stored turned, so that its boxes may mean either.
    """
    with opened(blob, where) as image:
        if _oriented(image):
            raise SteppeError(
                "an image with boxes must be stored as it is seen",
                got=f"an orientation in the EXIF data of {where}",
                consequence="its boxes may be those before or after the turn",
                way_out="store it turned",
            )
        return image.size


def _oriented(image: Image.Image) -> bool:
    return image.getexif().get(0x0112, 1) not in (0, 1)


def _undecodable(where: str, error: Exception) -> SteppeError:
    text = " ".join(str(error).split())[:200]
    return SteppeError(
        "every image must be decodable",
        got=f"{where} ({type(error).__name__}: {text})",
        way_out="replace the file, or leave it out of the split",
    )


def ends(box: Any, where: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a box that is stored as left, top, width, height.

    Args:
        box: four numbers.
        where: words for an error message.

    Raises:
        SteppeError: it is something else.

    Example:
        >>> ends([8, 4, 16, 8], "here")
        (8.0, 4.0, 24.0, 12.0)
    """
    try:
        left, top, width, height = map(float, box)
    except (TypeError, ValueError):
        raise SteppeError(
            "a box is left, top, width and height", got=f"{box!r} in {where}"
        ) from None
    return left, top, left + width, top + height
