"""Encoded images of a dataset: all of its splits are read by one rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from steppe.vision.data.base import Rows, Source
from steppe.vision.data.blobs import Blobs
from steppe.vision.data.decode import decode, is_grey
from steppe.vision.data.levels import Levels, Reading
from steppe.vision.data.pictures import Pictures


@dataclass(frozen=True, eq=False, kw_only=True)
class Encoded:
    """One split before it is decoded.

    Args:
        name: train or test, for what is said.
        labels: one for each image.
        blobs: the encoded images.
    """

    name: str
    labels: Sequence[object]
    blobs: Blobs

    def grey(self) -> bool:
        """Whether the first image has no colour."""
        return is_grey(self.blobs.blob(0), self.blobs.describe(0))


def source(
    train: Encoded,
    test: Encoded,
    reading: Reading,
    classes: tuple[str, ...] = (),
    notes: Sequence[str] = (),
) -> Source:
    """A dataset of encoded images.

    Whether there is one channel or three is what the first training image has, and the range of
    deep images is that of both splits, so neither depends on what is selected.

    Args:
        train: images to train on.
        test: images to test on.
        reading: how images become pixels.
        classes: their names, empty where they are not known.
        notes: what is worth saying of the files.
    """
    levels = Levels(reading)
    for part in (train, test):
        levels.add(part.blobs.named)

    def key() -> str:
        """The range is that of both splits, so each depends on the other's images."""
        keys = (train.blobs.key(), test.blobs.key())
        return repr((keys, reading)) if all(keys) else ""

    def grey() -> bool:
        return train.grey() if reading.channels is None else reading.channels == 1

    def rows(part: Encoded) -> Rows:
        said: list[str] = []

        def decode_rows(chosen: Sequence[int]) -> Tensor:
            own_notes: list[str] = []
            grey_too = grey()
            images = decode(
                list(part.blobs.in_order(chosen)),
                describe=lambda i: part.blobs.describe(chosen[i]),
                grey=grey_too,
                levels=levels,
                notes=own_notes,
            )
            said.extend([*levels.notes, *(f"{part.name}: {note}" for note in own_notes)])
            if reading.channels is None and not grey_too and part.grey():
                said.append(f"{part.name}: grey images are read with three channels, as train has")
            return images

        def own_key() -> str:
            both = key()
            return f"{part.name}\n{both}" if both else ""

        return Rows(
            part.labels,
            decode_rows,
            part.blobs.describe,
            own_key,
            said,
            lambda: Pictures(part.blobs, levels, grey()),
        )

    return Source(rows(train), rows(test), classes, tuple(notes))
