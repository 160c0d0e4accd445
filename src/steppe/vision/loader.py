"""Batches whose content depends on (seed, epoch, batch number) only, so any run can resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from steppe.core.errors import SteppeError
from steppe.engine import ranks
from steppe.vision.augment import Augmentation, Pipeline
from steppe.vision.augment.pipeline import as_pipeline
from steppe.vision.batch_loader import BatchLoader
from steppe.vision.batch_loader import stream as stream
from steppe.vision.data.base import ImageData, ImageSplit, StreamedSplit
from steppe.vision.data.base import Split as Split
from steppe.vision.streaming.fetch import usual_workers
from steppe.vision.streaming.worker import seed_of

_MIXING = 1
"""What tells the draws of mixtures from those of a batch's augmentation."""


class Loader(BatchLoader):
    """Normalised batches of a split, whose images lie in memory or are streamed.

    Augmentation: of single images, draws from (seed, epoch, image); of batches, draws from (seed,
    epoch, batch) for the whole batch, of which each rank takes its own examples' rows. So
    :meth:`epoch` may start anywhere, and what comes before costs nothing.

    Args:
        split: the images.
        batch_size: examples per step over all ranks together.
        mean: per channel, of images in [0, 1].
        std: per channel; x = (image - mean) / std.
        augment: what is done to the images, or None; of batches on the device, with draws made on
            the CPU, the same for every device.
        workers: processes that decode, beside this one; 0: none. Changes no image. None: this
            process's share of the cores, at most 8; none where images lie decoded in memory.
        num_classes: of the labels, where images are mixed; labels are then shares [n, classes].
        options: seed, shuffle, drop_last, device, dtype, memory_format, rank, world; see
            `steppe.vision.batch_loader.BatchLoader`.

    Raises:
        SteppeError: sizes, rank, mean or std that cannot work.

    Example:
        >>> split = Split(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.zeros(10).long())
        >>> loader = Loader(split, 4, mean=[0.5], std=[0.5], shuffle=True)
        >>> [len(y) for x, y in loader.epoch(0)], [len(y) for x, y in loader.epoch(0, start=2)]
        ([4, 4, 2], [2])
    """

    def __init__(
        self,
        split: ImageSplit,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augmentation | Pipeline | None = None,
        workers: int | None = None,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        channels, white = split.shape[0], split.white
        super().__init__(
            len(split), batch_size, mean=mean, std=std, channels=channels, white=white, **options
        )
        self.split, self.augment = split, augment
        self.pipeline, self.num_classes = as_pipeline(augment), num_classes
        self._check_mixing()
        # processes that each read whole batches share the cores as well
        together = max(self.world, ranks.world())
        self.workers = usual_workers(together) if workers is None else workers
        self._reader = split.reader(self.pipeline, self.seed, self.workers, self.pinned)

    @property
    def streams(self) -> bool:
        """Whether images stay on disk."""
        return isinstance(self.split, StreamedSplit)

    @classmethod
    def of(cls, data: ImageData, split: str, batch_size: int, **options: Any) -> Loader:
        """The usual loader of a dataset's split.

        Args:
            data: the dataset.
            split: ``train`` (shuffled, augmented, last batch dropped where it is not full),
                ``validation`` or ``test`` (stored order, every image once, not augmented).
            batch_size: examples per step over all ranks together.
            options: any argument of :class:`Loader`, instead of the usual one.

        Returns:
            The loader.

        Raises:
            SteppeError: no such split.

        Example:
            >>> from steppe.vision.data import load
            >>> len(Loader.of(load("digits"), "train", 128, seed=0))
            10
        """
        splits = {"train": data.train, "validation": data.validation, "test": data.test}
        images = splits.get(split)
        if images is None:
            raise SteppeError(
                "split must be train, validation or test, and loaded",
                got=split,
                way_out="data: {validation: 0.1} in the recipe (load(..., validation=0.1)) holds "
                "images out",
            )
        train = split == "train"
        usual: dict[str, Any] = {"mean": data.mean, "std": data.std, "shuffle": train}
        usual |= {"augment": data.augment if train else None, "drop_last": train}
        usual |= {"workers": data.workers, "num_classes": data.num_classes}
        return cls(images, batch_size, **(usual | options))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of a loader without shuffling and augmentation, for evaluation."""
        if self.shuffle or self.augment is not None:
            raise SteppeError(
                "a shuffled or augmented loader must be read by epoch",
                consequence="every epoch would be the same",
                way_out="for x, y in loader.epoch(number)",
            )
        return self.epoch(0)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches ``start``, ``start + 1``, ... of an epoch.

        Args:
            number: of the epoch, from 0.
            start: first batch to give; those before it cost nothing.

        Yields:
            Images [n, c, h, w] of ``dtype``, and labels [n], int64, on ``device``; n is
            batch_size / world. Where images are mixed, labels are shares [n, classes], float32.
        """
        shares = self.shares(number, start)
        stored = self._reader.read(number, iter([own for _, own in shares]))
        for batch, (every, own) in enumerate(shares, start):
            yield self._finished(next(stored), own, len(every), (number, batch))

    def _drawn(self, generator: torch.Generator) -> Tensor:
        return self.split.order(generator)

    def _finished(
        self, images: Tensor, positions: Tensor, together: int, where: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Augmented as a batch, normalised, mixed.

        Args:
            images: of this rank, as they are stored.
            positions: of them in the split.
            together: how many examples all ranks have in this batch.
            where: epoch and batch.
        """
        labels = self.split.labels
        x = self._moved(images)
        y = self._moved(labels.index_select(0, positions.to(labels.device)))
        augment, draws = self.pipeline.batch, None
        if augment is not None:
            all_draws = augment.draw(together, stream(self.seed, *where))
            draws = all_draws[self.rank :: self.world].to(self.device)
            x = x if augment.normalised else augment(x, draws)
        x = self._normalised(x)
        if augment is not None and draws is not None and augment.normalised:
            x = augment(x, draws)
        if self.pipeline.mixing:
            x, y = self._mixed(x, y, where)
        return self._laid_out(x), y

    def _mixed(self, x: Tensor, y: Tensor, where: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Each with the one that is half of the batch away, which lies on the same rank."""
        assert self.num_classes is not None
        random = Random(seed_of(self.seed, *where, _MIXING))
        mixing = random.choice(self.pipeline.mixing)
        draws = mixing.draw(x.shape[2], x.shape[3], random)
        half = len(x) // 2
        shares = F.one_hot(y, self.num_classes).to(torch.float32)
        mixed = torch.lerp(shares.roll(half, 0), shares, draws[0])
        return mixing(x, x.roll(half, 0), draws), mixed

    def _check_mixing(self) -> None:
        if self.pipeline.mixing and self.batch_size % (2 * self.world):
            raise SteppeError(
                "a batch whose images are mixed must have two equal halves in each process",
                got=f"batch_size={self.batch_size}, world={self.world}",
                way_out=f"a batch size that {2 * self.world} divides",
            )
        if self.pipeline.mixing and (self.num_classes is None or not self.drop_last):
            raise SteppeError(
                "mixing needs full batches and the number of classes",
                got=f"drop_last={self.drop_last}, num_classes={self.num_classes}",
                way_out="Loader(..., drop_last=True, num_classes=1000)",
            )


def batches(
    split: ImageSplit, batch_size: int, *, epoch: int = 0, start: int = 0, **options: Any
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch; :class:`Loader` without keeping it.

    Args:
        split: the images.
        batch_size: examples per step over all ranks together.
        epoch: its number, from 0.
        start: first batch to give.
        options: further arguments of :class:`Loader`.

    Returns:
        Iterator over (images, labels), see :meth:`Loader.epoch`.

    Example:
        >>> split = Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4))
        >>> [y.tolist() for _, y in batches(split, 2, mean=[0.0], std=[1.0])]
        [[0, 1], [2, 3]]
    """
    return Loader(split, batch_size, **options).epoch(epoch, start)
