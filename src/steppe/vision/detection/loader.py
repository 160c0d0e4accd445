"""Batches of images and objects that depend on (seed, epoch, batch number) only."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from steppe.vision.batch_loader import BatchLoader, stream
from steppe.vision.detection.augment import Augmentations, View
from steppe.vision.detection.data import DetectionData, without_kept
from steppe.vision.detection.data.base import Split
from steppe.vision.detection.rendering import pixels, render
from steppe.vision.detection.targets import padded
from steppe.vision.streaming.faults import of_user
from steppe.vision.streaming.fetch import Fetcher
from steppe.vision.streaming.worker import Batches


class Items(Batches[tuple[Tensor, Tensor]]):
    """Images and their objects, as the augmentations show them.

    Pixels are ``[n, c, size, size]``, uint8, objects ``[n, most, 6]``.

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
        super().__init__((3 if split.colour else 1, size, size))
        self.split, self.size, self.mean = split, size, mean
        self.augment, self.seed = augment, seed

    def __len__(self) -> int:
        return len(self.split)

    def put(self, place: NDArray[np.uint8], epoch: int, position: int) -> Tensor:
        image, objects = self.seen(epoch, position)
        place[:] = image.numpy()
        return objects

    def describe(self, position: int) -> str:
        return self.split.scenes[position].where

    def gathered(self, images: Tensor, others: list[Tensor]) -> tuple[Tensor, Tensor]:
        return images, padded(others)

    def seen(self, epoch: int, row: int) -> tuple[Tensor, Tensor]:
        """An image in an epoch: pixels ``[c, size, size]`` and objects ``[k, 6]``."""
        scene = self.split.scenes[row]
        draw = Random(stream(self.seed, epoch, row).initial_seed())
        view = View.whole(scene.size, scene.objects)
        for part in self.augment:
            with of_user(part):
                view = part.seen(view, draw)
        image = render(self.split.image(row), view, self.size, self.mean)
        for part in self.augment:
            with of_user(part):
                image = part.coloured(image, draw)
        return pixels(image), view.objects


class DetectionLoader(BatchLoader):
    """Normalised batches of a split, with their objects as one padded tensor.

    Args:
        data: the dataset.
        part: train, validation or test.
        batch_size: images per step over all ranks together.
        augment: what is done to the images.
        workers: processes that decode; 0 for none. They change no value.
        options: seed, shuffle, drop_last, device, dtype, memory_format, rank, world; see
            `steppe.vision.batch_loader.BatchLoader`.

    Raises:
        SteppeError: no such part; sizes or rank that cannot work.
    """

    def __init__(
        self,
        data: DetectionData,
        part: str,
        batch_size: int,
        *,
        augment: Augmentations = (),
        workers: int = 0,
        **options: Any,
    ) -> None:
        split = data.part(part)
        options |= {"mean": data.mean, "std": data.std, "channels": len(data.mean)}
        super().__init__(len(split), batch_size, **options)
        kept = without_kept(split) if workers else split
        self.items = Items(kept, data.size, data.mean, augment, self.seed)
        self._fetcher = Fetcher(self.items, workers, pin=self.pinned)

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

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches ``start``, ``start + 1``, ... of an epoch; those before it cost nothing.

        Args:
            number: of the epoch, from 0.
            start: first batch to give.

        Yields:
            Images ``[n, c, size, size]`` of ``dtype``, normalised, and objects ``[n, most, 6]``
            (`steppe.vision.detection.targets`), on ``device``.
        """
        keys = [[(number, row) for row in own.tolist()] for _, own in self.shares(number, start)]
        for images, objects in self._fetcher.batches(iter(keys)):
            x = self._laid_out(self._normalised(self._moved(images)))
            yield x, self._moved(objects)
