"""Whether images stay on disk, and a split of those that do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.vision.augment import Given, augmentation
from steppe.vision.augment.pipeline import as_pipeline
from steppe.vision.data.base import Rows, Shape, Source, StreamedSplit
from steppe.vision.data.levels import Reading

MEMORY = 4 * 2**30
"""Decoded images of more bytes than this are streamed, where nobody says otherwise."""


@dataclass(frozen=True)
class How:
    """Whether images are streamed, and what is to be said of it."""

    streamed: bool
    notes: tuple[str, ...] = ()


def streams(
    source: Source,
    reading: Reading,
    chosen: list[int],
    count: int,
    asked: bool | Literal["auto"],
    augment: Given,
) -> How:
    """Decide whether images are streamed.

    Args:
        source: of the dataset.
        reading: how images become pixels.
        chosen: rows of the training images that are used.
        count: images that are used, of all splits.
        asked: true, false, or auto: where they would take more than `MEMORY`, or where an
            augmentation decides itself what is kept of an image.
        augment: of the training images.

    Raises:
        SteppeError: asked for, of images that lie in memory; or not, where an augmentation needs
            the images as they are stored; no size, where one is needed.
    """
    if source.train.pictures is None:
        if asked is True:
            raise SteppeError(
                "images are streamed from files",
                got="a dataset that lies in memory",
                way_out="data.stream=auto",
            )
        return How(False)
    # whether it frames does not depend on the shape; auto does not where it must be known here
    frames = as_pipeline(augmentation(augment, (3, 32, 32))).frames
    if frames and reading.size is None:
        raise SteppeError(
            "images that an augmentation crops and scales need a size",
            got=f"augment {augment} and no size",
            way_out="size=224 (data.size in a recipe)",
        )
    if asked is False:
        if frames:
            raise SteppeError(
                "an augmentation that decides what is kept of an image reads it from its file",
                got=f"augment {augment} with stream: false",
                way_out="stream: auto, or another augmentation, such as crop-flip",
            )
        return How(False)
    if asked is True:
        return How(True)
    if frames:
        return How(True, ("images are streamed, as the augmentation reads them from their files",))
    channels, height, width = shape_of(source.train, chosen[0], reading)
    size = count * channels * height * width
    if size <= MEMORY:
        return How(False)
    return How(
        True,
        (
            f"images are streamed: decoded they would take {size / 2**30:.1f} GiB, more than "
            f"{MEMORY / 2**30:.0f} (data.stream=false keeps them in memory)",
        ),
    )


def shape_of(rows: Rows, row: int, reading: Reading) -> Shape:
    """Channels, height, width of what is read, which an image tells where no size does."""
    assert rows.pictures is not None
    pictures = rows.pictures()
    if reading.size is None:
        width, height = pictures.size(row)
    else:
        width = height = reading.size
    return 1 if pictures.grey else 3, height, width


def streamed(rows: Rows, labels: Tensor, chosen: list[int], reading: Reading) -> StreamedSplit:
    """Some rows of a dataset's split, to be streamed.

    Args:
        rows: of the dataset's split.
        labels: of all of them.
        chosen: which ones, ascending.
        reading: how images become pixels.

    Raises:
        SteppeError: the first of these images is none, or which values are black and white cannot
            be seen.
    """
    assert rows.pictures is not None
    pictures = rows.pictures()
    pictures.settle(chosen[0])
    rows.notes.extend(note for note in pictures.levels.notes if note not in rows.notes)
    positions = torch.tensor(chosen, dtype=torch.int64)
    return StreamedSplit(pictures, positions, labels[positions], shape_of(rows, chosen[0], reading))
