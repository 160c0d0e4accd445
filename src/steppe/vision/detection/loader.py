"""Batches of images and objects that depend on (seed, epoch, batch number) only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.vision.detection.augment import Augmentations, View
from steppe.vision.detection.data import DetectionData, without_kept
from steppe.vision.detection.data.base import Split
from steppe.vision.detection.rendering import pixels, render
from steppe.vision.detection.targets import padded
from steppe.vision.loader import stream
from steppe.vision.streaming.faults import naming
from steppe.vision.streaming.fetch import Fetcher

Key = tuple[int, int]
"""Epoch and row."""


class Items:
    """A map-style dataset of batches: ``[(epoch, row), ...]`` -> images and their objects.

    Pixels are ``[n, c, size, size]``, uint8, objects ``[n, most, 6]``.

    What is drawn depends on (seed, epoch, row), so that an image is the same in any batch, worker
    and rank.

    Args:
        split: the images.
        size: height and width in pixels.
        mean: colour beyond the image, in [0, 1].
        augment: what is done to them.
        seed: of the draws.
    """

    def __init__(
        self, split: Split, size: int, mean: tuple[float, ...], augment: Augmentations, seed: int
    ) -> None:
        self.split, self.size, self.mean = split, size, mean
        self.augment, self.seed = augment, seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, keys: Sequence[Key]) -> tuple[Tensor, Tensor] | SteppeError:
        """A batch, or the refusal of one of its images: an error has its words in any process."""
        try:
            seen = [self._named(*key) for key in keys]
        except SteppeError as error:
            return error
        return torch.stack([image for image, _ in seen]), padded([own for _, own in seen])

    def _named(self, epoch: int, row: int) -> tuple[Tensor, Tensor]:
        with naming(lambda: self.split.scenes[row].where):
            return self.seen(epoch, row)

    def seen(self, epoch: int, row: int) -> tuple[Tensor, Tensor]:
        """An image in an epoch: pixels ``[c, size, size]`` and objects ``[k, 6]``."""
        scene = self.split.scenes[row]
        draw = Random(stream(self.seed, epoch, row).initial_seed())
        view = View.whole(scene.size, scene.objects)
        for part in self.augment:
            view = part.seen(view, draw)
        image = render(self.split.image(row), view, self.size, self.mean)
        for part in self.augment:
            image = part.coloured(image, draw)
        return pixels(image), view.objects


class DetectionLoader:
    """Normalised batches of a split, with their objects as one padded tensor.

    Args:
        data: the dataset.
        part: train, validation or test.
        batch_size: images per step over all ranks together.
        seed: of order and augmentation.
        shuffle: a new order each epoch.
        augment: what is done to the images.
        drop_last: leave out a last batch that is not full.
        device: where batches go.
        dtype: of the images.
        memory_format: of the images.
        rank: this process; it gets images rank, rank + world, ... of each batch, and of
            a last one that is not full perhaps none.
        world: number of processes; must divide batch_size.
        workers: processes that decode; 0 for none. They change no value.

    Raises:
        SteppeError: no such part; sizes or rank that cannot work.
    """

    def __init__(
        self,
        data: DetectionData,
        part: str,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        augment: Augmentations = (),
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
    ) -> None:
        split = data.part(part)
        self.items = Items(
            without_kept(split) if workers else split, data.size, data.mean, augment, seed
        )
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.drop_last = drop_last
        self.device, self.dtype, self.memory_format = torch.device(device), dtype, memory_format
        self.rank, self.world = rank, world
        self._check()
        decoder: Any = self.items
        self._fetcher = Fetcher(decoder, workers, pin=self.device.type == "cuda")
        scale = torch.tensor([1 / (255 * s) for s in data.std])
        shift = torch.tensor([-m / s for m, s in zip(data.mean, data.std, strict=True)])
        self._scale = scale.view(1, -1, 1, 1).to(self.device)
        self._shift = shift.view(1, -1, 1, 1).to(self.device)

    @classmethod
    def of(cls, data: DetectionData, part: str, batch_size: int, **options: Any) -> DetectionLoader:
        """The usual loader of a part: training images are shuffled, augmented and full batches."""
        train = part == "train"
        usual: dict[str, Any] = {"shuffle": train, "drop_last": train}
        usual |= {"augment": data.augment if train else ()}
        return cls(data, part, batch_size, **(usual | options))

    @property
    def split(self) -> Split:
        """Its images."""
        return self.items.split

    def __len__(self) -> int:
        """Batches per epoch."""
        full, remainder = divmod(len(self.split), self.batch_size)
        return full + (remainder > 0 and not self.drop_last)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches ``start``, ``start + 1``, ... of an epoch; those before it cost nothing.

        Args:
            number: of the epoch, from 0.
            start: first batch to give.

        Yields:
            Images ``[n, c, size, size]`` of ``dtype``, normalised, and objects ``[n, most, 6]``
            (`steppe.vision.detection.targets`), on ``device``.
        """
        order = torch.arange(len(self.split))
        if self.shuffle:
            order = torch.randperm(len(self.split), generator=stream(self.seed, number))
        keys = [self._keys(order, number, batch) for batch in range(start, len(self))]
        # of a last batch that is not full others may have all
        for images, objects in self._fetcher.batches(iter([own for own in keys if own])):
            x = images.to(self.device).to(torch.float32).mul(self._scale).add_(self._shift)
            x = x.to(self.dtype).contiguous(memory_format=self.memory_format)
            yield x, objects.to(self.device)

    def _keys(self, order: Tensor, epoch: int, batch: int) -> list[Key]:
        everyone = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        return [(epoch, row) for row in everyone[self.rank :: self.world].tolist()]

    def _check(self) -> None:
        n = len(self.split)
        if self.batch_size < 1 or (self.drop_last and self.batch_size > n):
            raise SteppeError(
                f"batch_size must lie between 1 and the {n} images there are",
                got=self.batch_size,
                way_out="another batch size (--batch-size, train.batch_size)",
            )
        if not 0 <= self.rank < self.world or self.batch_size % self.world:
            raise SteppeError(
                "rank must lie below world, and world must divide batch_size",
                got=f"rank={self.rank}, world={self.world}, batch_size={self.batch_size}",
                way_out="batch_size counts the images of all ranks together",
            )
