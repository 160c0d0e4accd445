"""Encoded images of a dataset: all of its splits are read by one rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from steppe.vision.data.base import Rows, Source
from steppe.vision.data.decode import decode, is_grey
from steppe.vision.data.levels import Blob, Levels, Reading


@dataclass(frozen=True, eq=False, kw_only=True)
class Encoded:
    """One split before it is decoded.

    Args:
        name: train or test, for what is said.
        labels: one for each image.
        blobs: ascending row numbers -> their encoded images.
        describe: row number -> words for an error message.
        key: changes whenever the stored images do; empty where that is not known.
    """

    name: str
    labels: Sequence[object]
    blobs: Callable[[Sequence[int]], Iterator[Blob]]
    describe: Callable[[int], str]
    key: str

    def named(self) -> Iterator[tuple[Blob, str]]:
        """Every image, and what it is called."""
        rows = range(len(self.labels))
        return (
            (blob, self.describe(row)) for row, blob in zip(rows, self.blobs(rows), strict=True)
        )

    def grey(self) -> bool:
        """Whether the first image has no colour."""
        return is_grey(next(self.blobs([0])), self.describe(0))


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
        levels.add(part.named)
    # the range is that of both, so each depends on the other's images
    key = f"{train.key}\n{test.key}\n{reading}" if train.key and test.key else ""

    def rows(part: Encoded) -> Rows:
        said: list[str] = []

        def decode_rows(chosen: Sequence[int]) -> Tensor:
            grey = train.grey() if reading.channels is None else reading.channels == 1
            own_notes: list[str] = []
            images = decode(
                list(part.blobs(chosen)),
                describe=lambda i: part.describe(chosen[i]),
                grey=grey,
                levels=levels,
                notes=own_notes,
            )
            said.extend([*levels.notes, *(f"{part.name}: {note}" for note in own_notes)])
            if reading.channels is None and not grey and part.grey():
                said.append(f"{part.name}: grey images are read with three channels, as train has")
            return images

        own = f"{part.name}\n{key}" if key else ""
        return Rows(part.labels, decode_rows, part.describe, own, said)

    return Source(rows(train), rows(test), classes, tuple(notes))
