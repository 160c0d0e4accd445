"""The dataset types: splits of images with labels, and the sources they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.vision.augment import Augmentation, Pipeline
from steppe.vision.data.pictures import DecodedPictures, Pictures
from steppe.vision.streaming.fetch import Fetcher
from steppe.vision.streaming.worker import Decoder

Shape = tuple[int, int, int]
"""Channels, height, width."""


class Reader(Protocol):
    """Gives the images of one batch after the other."""

    def read(self, epoch: int, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """The images ``[n, c, h, w]`` of positions ``[n]`` in the split, in an epoch."""


class ImageSplit(Protocol):
    """Images and labels of one split of a dataset, wherever the images are."""

    @property
    def labels(self) -> Tensor:
        """``[n]``, int64, in 0..num_classes - 1."""

    @property
    def shape(self) -> Shape:
        """Of every image."""

    @property
    def white(self) -> float:
        """The value of white: 255 of levels, 1 of floats."""

    def __len__(self) -> int: ...

    def take(self, positions: Tensor) -> ImageSplit:
        """The images at some positions, as a split."""

    def labelled(self, labels: Tensor) -> ImageSplit:
        """The same images with other labels."""

    def order(self, generator: torch.Generator) -> Tensor:
        """In which order an epoch visits the images."""

    def reader(self, pipeline: Pipeline, seed: int, workers: int, pin: bool) -> Reader:
        """What reads batches.

        Args:
            pipeline: its changes of single images are made.
            seed: of them.
            workers: processes that decode, where images are decoded.
            pin: whether a GPU gets the batches.
        """


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

    @property
    def shape(self) -> Shape:
        """Channels, height, width."""
        c, h, w = self.images.shape[1:]
        return c, h, w

    @property
    def white(self) -> float:
        """255 of levels, 1 of floats."""
        return 255.0 if self.images.dtype == torch.uint8 else 1.0

    def take(self, positions: Tensor) -> Split:
        """The images at some positions, or where booleans are true."""
        return Split(self.images[positions], self.labels[positions])

    def labelled(self, labels: Tensor) -> Split:
        """The same images with other labels."""
        return Split(self.images, labels)

    def order(self, generator: torch.Generator) -> Tensor:
        """Any order is as likely as another."""
        return torch.randperm(len(self), generator=generator)

    def reader(self, pipeline: Pipeline, seed: int, workers: int, pin: bool) -> Reader:
        """From memory; images that are changed one by one go through the workers."""
        if not pipeline.of_single_images:
            return _FromMemory(self.images)
        if self.images.dtype != torch.uint8:
            raise SteppeError(
                "single images are augmented as levels 0..255",
                got=f"images of {self.images.dtype}",
                way_out="augment: crop-flip, or none",
            )
        source = DecodedPictures(self.images.cpu())
        rows = torch.arange(len(self))
        return _Streamed(Fetcher(Decoder(source, rows, self.shape, pipeline, seed), workers, pin))

    def to(self, device: torch.device | str) -> Split:
        """The same split on ``device``; CIFAR-10's 50,000 images are 150 MB."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class _FromMemory:
    images: Tensor

    def read(self, epoch: int, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        return (self.images.index_select(0, rows.to(self.images.device)) for rows in batches)


@dataclass(frozen=True)
class _Streamed:
    fetcher: Fetcher[Tensor]

    def read(self, epoch: int, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        lists = ([(epoch, position) for position in rows.tolist()] for rows in batches)
        return self.fetcher.batches(lists)


@dataclass(frozen=True, eq=False)
class StreamedSplit:
    """Labels of one split of a dataset, whose images stay where they are stored.

    Args:
        pictures: the images of the whole dataset's split.
        rows: [n], int64, ascending: which of them are in this one.
        labels: [n], int64, in 0..num_classes - 1.
        shape: channels, height, width of what is read.
    """

    pictures: Pictures
    rows: Tensor
    labels: Tensor
    shape: Shape
    white = 255.0

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: Tensor) -> StreamedSplit:
        """The images at some positions, or where booleans are true."""
        return replace(self, rows=self.rows[positions], labels=self.labels[positions])

    def labelled(self, labels: Tensor) -> StreamedSplit:
        """The same images with other labels."""
        return replace(self, labels=labels)

    def order(self, generator: torch.Generator) -> Tensor:
        """As the stored images are best read."""
        return self.pictures.order(self.rows, generator)

    def reader(self, pipeline: Pipeline, seed: int, workers: int, pin: bool) -> Reader:
        """From disk, decoded by workers."""
        decoder = Decoder(self.pictures, self.rows, self.shape, pipeline, seed)
        return _Streamed(Fetcher(decoder, workers, pin))


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
        workers: processes that decode images, for each process that trains; None: its share of the
            cores, at most 8. Changes no image.
    """

    name: str
    train: ImageSplit
    validation: ImageSplit | None
    test: ImageSplit
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    augment: Augmentation | Pipeline | None = None
    clean_labels: Tensor | None = None
    notes: tuple[str, ...] = ()
    workers: int | None = None

    @property
    def shape(self) -> Shape:
        """Channels, height, width of an image."""
        return self.train.shape

    @property
    def streamed(self) -> bool:
        """Whether images stay on disk."""
        return isinstance(self.train, StreamedSplit)


@dataclass(frozen=True, eq=False)
class Rows:
    """One split of a dataset before its images are decoded.

    Args:
        labels: the label of every row, as stored and not yet checked.
        decode: row numbers -> uint8 images [k, c, h, w].
        describe: row number -> words for an error message, e.g. ``"row 7 of train.parquet"``.
        key: of the cache; changes whenever the stored images do, empty where none is needed.
        notes: what is worth saying of the images, in sentences; grows as they are decoded.
        pictures: the images one by one, to be streamed; None where they lie in memory.
    """

    labels: Sequence[object]
    decode: Callable[[Sequence[int]], Tensor]
    describe: Callable[[int], str]
    key: Callable[[], str] = lambda: ""
    notes: list[str] = field(default_factory=list)
    pictures: Callable[[], Pictures] | None = None


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
