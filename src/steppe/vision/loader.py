"""Batches whose content depends on (seed, epoch, batch number) only, so any run can resume."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from steppe.core.errors import SteppeError
from steppe.vision.augment import Augmentation, Pipeline
from steppe.vision.augment.pipeline import as_pipeline
from steppe.vision.data.base import ImageData, ImageSplit
from steppe.vision.data.base import Split as Split
from steppe.vision.streaming.fetch import usual_workers
from steppe.vision.streaming.worker import seed_of

LARGE = 4 * 2**20
"""Bytes of a batch from which on it gets pages of its own."""
_MIXING = 1
"""What tells the draws of mixtures from those of a batch's augmentation."""


class Loader:
    """Normalised batches of a split, whose images lie in memory or are streamed.

    Order: a permutation drawn from (seed, epoch). Augmentation: of single images, draws from
    (seed, epoch, image); of batches, draws from (seed, epoch, batch) for the whole batch, of which
    each rank takes its own examples' rows. Nothing is carried from one batch to the next, so
    :meth:`epoch` may start anywhere, and what comes before costs nothing.

    Args:
        split: the images.
        batch_size: examples per step over all ranks together.
        mean: per channel, of images in [0, 1].
        std: per channel; x = (image - mean) / std.
        seed: of order and augmentation.
        shuffle: a new order each epoch; otherwise the stored one.
        augment: what is done to the images, or None.
        drop_last: leave out a last batch that is not full.
        device: where batches go. Images are moved as they are stored (uint8: a quarter of the
            bytes) and augmented there, with draws made on the CPU, the same for every device.
        dtype: of the images, e.g. torch.bfloat16; computed in float32.
        memory_format: e.g. torch.channels_last.
        rank: this process, 0..world - 1; it gets examples rank, rank + world, ... of each batch.
        world: number of processes; must divide batch_size. A last batch that is not full gives
            ranks unequal shares: use drop_last for training.
        workers: processes that decode, beside this one; 0: none. Changes no image. None: this
            process's share of the cores, at most 8; none where images lie decoded in memory.
        num_classes: of the labels, where images are mixed; labels are then shares [n, classes].

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
        seed: int = 0,
        shuffle: bool = False,
        augment: Augmentation | Pipeline | None = None,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        rank: int = 0,
        world: int = 1,
        workers: int | None = None,
        num_classes: int | None = None,
    ) -> None:
        self.split, self.batch_size, self.drop_last = split, batch_size, drop_last
        self.seed, self.shuffle, self.augment = seed, shuffle, augment
        self.device, self.dtype, self.memory_format = torch.device(device), dtype, memory_format
        self.rank, self.world = rank, world
        self.pipeline, self.num_classes = as_pipeline(augment), num_classes
        self._check(len(mean), len(std))
        pin = self.device.type == "cuda"
        self.workers = usual_workers(world) if workers is None else workers
        self._reader = split.reader(self.pipeline, seed, self.workers, pin)
        # (x / 255 - mean) / std as one multiplication and one addition.
        scale = torch.tensor([1 / (split.white * s) for s in std], dtype=torch.float32)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32)
        self._scale = scale.view(1, -1, 1, 1).to(self.device)
        self._shift = shift.view(1, -1, 1, 1).to(self.device)

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

    def __len__(self) -> int:
        """Batches per epoch."""
        full, remainder = divmod(len(self.split), self.batch_size)
        return full + (remainder > 0 and not self.drop_last)

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
        order = torch.arange(len(self.split))
        if self.shuffle:
            order = self.split.order(stream(self.seed, number))
        size = self.batch_size
        lists = [order[batch * size : (batch + 1) * size] for batch in range(start, len(self))]
        shares = [every[self.rank :: self.world] for every in lists]
        stored = self._reader.read(number, iter(shares))
        for batch, (every, own) in enumerate(zip(lists, shares, strict=True), start):
            yield self._finished(next(stored), own, len(every), (number, batch))

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
        x = self._move(images)
        y = self._move(labels.index_select(0, positions.to(labels.device)))
        augment, draws = self.pipeline.batch, None
        if augment is not None:
            all_draws = augment.draw(together, stream(self.seed, *where))
            draws = all_draws[self.rank :: self.world].to(self.device)
            x = x if augment.normalised else augment(x, draws)
        x = _room(x).copy_(x).mul_(self._scale).add_(self._shift)
        if augment is not None and draws is not None and augment.normalised:
            x = augment(x, draws)
        if self.pipeline.mixing:
            x, y = self._mixed(x, y, where)
        return x.to(self.dtype).contiguous(memory_format=self.memory_format), y

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

    def _move(self, x: Tensor) -> Tensor:
        if self.device.type == "cuda" and x.device.type == "cpu":
            x = x if x.is_pinned() else x.pin_memory()
            return x.to(self.device, non_blocking=True)
        return x.to(self.device)

    def _check(self, means: int, stds: int) -> None:
        n, channels = len(self.split), self.split.shape[0]
        if self.batch_size < 1 or n == 0 or (self.drop_last and self.batch_size > n):
            raise SteppeError(
                f"batch_size must lie between 1 and the {n} images there are",
                got=self.batch_size,
                way_out="another batch size (--batch-size, train.batch_size)",
            )
        if not 0 <= self.rank < self.world or self.batch_size % self.world:
            raise SteppeError(
                "rank must lie below world, and world must divide batch_size",
                got=f"rank={self.rank}, world={self.world}, batch_size={self.batch_size}",
                way_out="batch_size counts the examples of all ranks together",
            )
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
        if (means, stds) != (channels, channels):
            raise SteppeError(
                f"mean and std must have one number for each of the {channels} channels",
                got=f"{means} and {stds}",
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


def _room(x: Tensor) -> Tensor:
    """For x in float32.

    On a CPU large batches have pages of their own, which go back to the system with them. glibc
    would keep them, split them for what is small, and take more for the next batch.
    """
    size = 4 * x.numel()
    if x.device.type != "cpu" or size < LARGE:
        return torch.empty(x.shape, dtype=torch.float32, device=x.device)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.from_numpy(np.frombuffer(pages, dtype=np.float32)).view(x.shape)


def stream(*numbers: int) -> torch.Generator:
    """A CPU generator that is a function of the numbers; streams of different numbers differ.

    The numbers are hashed: seed + epoch would give run 1, epoch 0 the stream of run 0, epoch 1.

    Example:
        >>> seeds = [stream(*pair).initial_seed() for pair in ((0, 1), (0, 1), (1, 0))]
        >>> seeds[0] == seeds[1], seeds[0] == seeds[2]
        (True, False)
    """
    return torch.Generator().manual_seed(seed_of(*numbers))
