"""Images with boxes as they are stored: what their headers say, and their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol

from PIL import Image

from steppe.core.errors import SteppeError
from steppe.vision.data.decode import picture, properties_of
from steppe.vision.data.levels import Blob, Levels, is_deep
from steppe.vision.streaming.faults import decoding

ORIENTATION = 0x0112
"""The entry of EXIF data that says how an image is turned."""
TURNED = range(2, 9)
"""It is; what else stands there turns nothing: 0 is what some tools write for that."""


class Stored(Protocol):
    """An encoded image on disk: a file, or a cell of a table. It is read when it is needed."""

    def read_bytes(self) -> bytes:
        """The encoded image."""
        ...


@dataclass(frozen=True)
class Header:
    """What an image says of itself before any pixel is decoded.

    Args:
        size: width and height.
        deep: whether it has more than 256 levels.
        properties: what is worth saying, see `steppe.vision.data.decode.properties_of`.
    """

    size: tuple[int, int]
    deep: bool
    properties: tuple[str, ...]


def header(image: Stored, where: str) -> Header:
    """The header of an image with boxes.

    Args:
        image: as it is stored.
        where: words for an error message.

    Raises:
        SteppeError: there is no such file, or it is no image; it is stored turned, so that its
            boxes may mean either.
    """
    with decoding(where):
        try:
            with Image.open(encoded(image)) as opened:
                own = Header(opened.size, is_deep(opened.mode), tuple(properties_of(opened)))
                # of a PNG it may lie behind the pixels
                turned = opened.getexif().get(ORIENTATION, 1)
        except FileNotFoundError:
            raise SteppeError(
                "every image of a split must be there",
                got=f"no {where}",
                way_out="restore it, or take it out of the split",
            ) from None
    if turned in TURNED:
        raise SteppeError(
            "an image with boxes must be stored as it is seen",
            got=f"orientation {turned} in the EXIF data of {where}",
            consequence="its boxes may be those before or after the turn",
            way_out="store it turned, or without that entry if its boxes are those before the turn",
        )
    return own


def decoded(image: Stored, where: str, levels: Levels) -> Image.Image:
    """The whole image, in colour or in grey, as images of classes are decoded.

    Args:
        image: as it is stored.
        where: words for an error message.
        levels: of its dataset.

    Raises:
        SteppeError: it cannot be decoded.
    """
    with decoding(where):
        blob = whole(image)
    return picture(blob, where, levels.reading.channels == 1, levels, None)[0]


def encoded(image: Stored) -> Path | BytesIO:
    """A file that PIL can open without reading all of it, or its bytes."""
    return image if isinstance(image, Path) else BytesIO(image.read_bytes())


def whole(image: Stored) -> Blob:
    """The same for `steppe.vision.data`."""
    return image if isinstance(image, Path) else image.read_bytes()
