"""The dataset types: splits of decoded images with labels, and the sources they come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steppe.vision.augment import Augmentation


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels of one split of a dataset.

    Args:
        images: [n, c, h, w]; uint8 in 0..255, or float in [0, 1].
        labels: [n], int64, in 0..num_classes - 1.

    Example:
        >>> len(Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])))
        4
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """The same split on ``device``; CIFAR-10's 50,000 images are 150 MB."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class ImageData:
    """A dataset ready for training; what :func:`steppe.vision.data.load` returns.

    Args:
        name: what it was loaded from.
        train: the images to train on.
        validation: images held out of the training images, or None.
        test: the test images.
        num_classes: number of classes.
        mean: per channel, of images in [0, 1].
        std: per channel, of images in [0, 1]; x is normalised to (x - mean) / std.
        classes: names of the classes, empty where unknown.
        augment: what is done to training images, or None.
        clean_labels: the labels of ``train`` before label noise was added, or None.
        notes: what was read in one of several ways, or left out, in sentences with counts.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    augment: Augmentation | None = None
    clean_labels: Tensor | None = None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image."""
        c, h, w = self.train.images.shape[1:]
        return c, h, w


@dataclass(frozen=True, eq=False)
class Rows:
    """One split of a dataset before its images are decoded.

    Args:
        labels: the label of every row, as stored and not yet checked.
        decode: row numbers -> uint8 images [k, c, h, w].
        describe: row number -> words for an error message, e.g. ``"row 7 of train.parquet"``.
        key: of the cache; changes whenever the stored images do, empty where none is needed.
        notes: what is worth saying of the images, in sentences; grows as they are decoded.
    """

    labels: Sequence[object]
    decode: Callable[[Sequence[int]], Tensor]
    describe: Callable[[int], str]
    key: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Source:
    """Where a dataset's images come from, before anything is selected or decoded.

    Args:
        train: rows to train on.
        test: rows to test on.
        classes: names of the classes in label order, empty where the source does not say.
        notes: what is worth saying of the files, in sentences.
    """

    train: Rows
    test: Rows
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
