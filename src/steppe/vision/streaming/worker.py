"""What a worker process does: decode images, change each by itself, stack them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial
from hashlib import blake2b
from random import Random
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from steppe.core.errors import SteppeError
from steppe.vision.augment.pipeline import Pipeline
from steppe.vision.framing import Frame, Framing
from steppe.vision.streaming.faults import naming, of_user

T = TypeVar("T")
Asked = tuple[int, int]
"""Epoch, and position in the split."""

_READING = 2
"""What tells the draws of a user's dataset from those of steppe's changes of its images."""


def seed_of(*numbers: int) -> int:
    """A seed of 63 bits that is a function of the numbers; neighbours' are unrelated.

    Example:
        >>> seed_of(0, 1) == seed_of(0, 1), seed_of(0, 1) == seed_of(1, 0)
        (True, False)
    """
    digest = blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Source(Protocol):
    """Images of a dataset by their row."""

    @property
    def framing(self) -> Framing | None:
        """What evaluation keeps of an image."""

    def of(self, row: int, framing: Framing | None, seed: int = 0) -> Image.Image:
        """An image, what ``framing`` keeps of it; ``seed`` is of what reading it draws."""

    def describe(self, row: int) -> str:
        """An image in words."""


class Batches(Generic[T]):
    """A map-style dataset of batches: ``[(epoch, position), ...]`` -> images, and more of them.

    What an image becomes is a function of (seed, epoch, position) alone, whoever decodes it. A
    subclass says what is not said here.

    Args:
        shape: channels, height, width of all.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape

    def __len__(self) -> int:
        raise NotImplementedError

    def put(self, place: NDArray[np.uint8], epoch: int, position: int) -> Any:
        """Write an image to ``place``, ``[c, h, w]``.

        Returns:
            What else is told of it.
        """
        raise NotImplementedError

    def describe(self, position: int) -> str:
        """An image in words, for a message."""
        raise NotImplementedError

    def gathered(self, images: Tensor, others: list[Any]) -> T:
        """The batch: images, uint8 ``[n, c, h, w]``, and what `put` returned of each."""
        raise NotImplementedError

    def __getitems__(self, asked: Sequence[Asked]) -> T | SteppeError:
        """A batch, or the refusal of one of its images: an error has its words in any process."""
        others = []
        try:
            images = _empty_batch(len(asked), self.shape)
            for place, (epoch, position) in zip(images.numpy(), asked, strict=True):
                with naming(partial(self.describe, position)):
                    others.append(self.put(place, epoch, position))
        except SteppeError as error:
            return error
        return self.gathered(images, others)


class Decoder(Batches[Tensor]):
    """Images of a dataset, each decoded and changed by itself.

    Args:
        source: the images.
        rows: position in the split -> row of the source.
        shape: channels, height, width of all.
        pipeline: what is done to single images.
        seed: of the changes.
    """

    def __init__(
        self,
        source: Source,
        rows: Tensor,
        shape: tuple[int, int, int],
        pipeline: Pipeline,
        seed: int,
    ) -> None:
        super().__init__(shape)
        self.source, self.pipeline, self.seed = source, pipeline, seed
        self.rows = rows.numpy()

    def __len__(self) -> int:
        return len(self.rows)

    def put(self, place: NDArray[np.uint8], epoch: int, position: int) -> None:
        place[:] = self._pixels(epoch, position).transpose(2, 0, 1)

    def describe(self, position: int) -> str:
        return self.source.describe(int(self.rows[position]))

    def gathered(self, images: Tensor, others: list[Any]) -> Tensor:
        return images

    def _pixels(self, epoch: int, position: int) -> np.ndarray:
        row, random = int(self.rows[position]), Random(seed_of(self.seed, epoch, position))
        seed = seed_of(self.seed, epoch, row, _READING)
        image = self.source.of(row, self._framing(random), seed)
        for step in self.pipeline.images:
            with of_user(step):
                image = step(image, random)
        pixels = np.asarray(image.convert("L" if self.shape[0] == 1 else "RGB"))
        if pixels.shape[:2] != self.shape[1:]:
            raise SteppeError(
                "all images must have one size",
                got=f"{image.width} x {image.height} in {self.source.describe(row)}, "
                f"{self.shape[2]} x {self.shape[1]} in others",
                way_out="give size=224 (data.size in a recipe) or another side to scale and crop to"
                if not self.pipeline.frames
                else "a transform brings all images to data.size",
            )
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    def _framing(self, random: Random) -> Framing | None:
        pipeline = self.pipeline
        if pipeline.framing is not None:
            step, size = pipeline.framing, self.shape[1]

            def frame(width: int, height: int) -> Frame:
                with of_user(step):
                    return step.frame(width, height, size, random)

            return frame
        return None if pipeline.frames else self.source.framing


def _empty_batch(count: int, shape: tuple[int, ...]) -> Tensor:
    """For a batch of images, uint8; of a worker's where the process that asked reads it."""
    batch = torch.from_numpy(np.empty((count, *shape), dtype=np.uint8))
    if get_worker_info() is None:
        return batch
    try:
        # images are written where the other process reads them: what is moved there later
        # leaves holes in the memory of the worker, which then grows by batches
        batch.share_memory_()
    except (RuntimeError, OSError) as error:
        raise SteppeError(
            "batches of worker processes need shared memory",
            got=" ".join(str(error).split())[:200],
            way_out="a larger /dev/shm (docker run --shm-size), fewer workers (data.workers) or a "
            "smaller batch",
        ) from error
    return batch
