"""What loaders of images share: order, ranks, and how stored levels become numbers on a device."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.vision.streaming.worker import seed_of

LARGE = 128 * 2**10
"""Bytes of a streamed batch from which on it gets pages of its own.

It is where glibc begins to do so. With each such block that is freed glibc raises its own limit, up
to 32 MiB, and then takes batches from its heap; here the limit stays. So it is chosen for memory,
not for speed, which `benchmarks/bench_batch_pages.py` compares.
"""


class BatchLoader:
    """Which images a batch and a rank have, and their normalisation.

    Order: a permutation drawn from (seed, epoch). Nothing is carried from one batch to the next, so
    an epoch may start anywhere, and what comes before costs nothing.

    Args:
        count: of images.
        batch_size: images per step over all ranks together.
        mean: per channel, of images in [0, 1].
        std: per channel; x = (image - mean) / std.
        channels: of the images.
        white: the stored value of white: 255 of levels, 1 of floats.
        seed: of order and augmentation.
        shuffle: a new order each epoch; otherwise the stored one.
        drop_last: leave out a last batch that is not full.
        device: where batches go. Images are moved as they are stored (uint8: a quarter of the
            bytes).
        dtype: of the images, e.g. torch.bfloat16; computed in float32.
        memory_format: e.g. torch.channels_last.
        rank: this process, 0..world - 1; it gets images rank, rank + world, ... of each batch.
        world: number of processes; must divide batch_size. Of a last batch that is not full ranks
            have unequal shares, and one that has nothing of it gets no batch: use drop_last for
            training.

    Raises:
        SteppeError: sizes, rank, mean or std that cannot work.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        channels: int,
        white: float = 255.0,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.count, self.batch_size, self.drop_last = count, batch_size, drop_last
        self.seed, self.shuffle = seed, shuffle
        self.device, self.dtype, self.memory_format = torch.device(device), dtype, memory_format
        self.rank, self.world = rank, world
        self._check()
        if (len(mean), len(std)) != (channels, channels):
            raise SteppeError(
                f"mean and std must have one number for each of the {channels} channels",
                got=f"{len(mean)} and {len(std)}",
            )
        # (x / white - mean) / std as one multiplication and one addition
        scale = torch.tensor([1 / (white * s) for s in std], dtype=torch.float32)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32)
        self._scale = scale.view(1, -1, 1, 1).to(self.device)
        self._shift = shift.view(1, -1, 1, 1).to(self.device)

    def __len__(self) -> int:
        """Batches per epoch, of all ranks together."""
        full, remainder = divmod(self.count, self.batch_size)
        return full + (remainder > 0 and not self.drop_last)

    @property
    def streams(self) -> bool:
        """Whether batches are decoded as they are needed: memory for them comes and goes."""
        return True

    @property
    def pinned(self) -> bool:
        """Whether batches had best come in memory that a GPU reads directly."""
        return self.device.type == "cuda"

    def shares(self, epoch: int, start: int) -> list[tuple[Tensor, Tensor]]:
        """Of each batch from ``start`` on: the positions of all ranks' images, and of this one's.

        A last one of which this rank has nothing is left out.

        Args:
            epoch: its number.
            start: first batch.
        """
        order = torch.arange(self.count)
        if self.shuffle:
            order = self._drawn(stream(self.seed, epoch))
        size = self.batch_size
        lists = [order[batch * size : (batch + 1) * size] for batch in range(start, len(self))]
        shares = [(every, every[self.rank :: self.world]) for every in lists]
        return [(every, own) for every, own in shares if len(own)]

    def _drawn(self, generator: torch.Generator) -> Tensor:
        """The order of an epoch; here any is as likely as another."""
        return torch.randperm(self.count, generator=generator)

    def _moved(self, x: Tensor) -> Tensor:
        """On the device; the CPU goes on meanwhile where that is a GPU."""
        if self.pinned and x.device.type == "cpu":
            x = x if x.is_pinned() else x.pin_memory()
            return x.to(self.device, non_blocking=True)
        return x.to(self.device)

    def _normalised(self, x: Tensor) -> Tensor:
        """Float32 of what is on the device as it is stored."""
        if self.streams:
            return _with_own_pages(x).copy_(x).mul_(self._scale).add_(self._shift)
        return x.to(torch.float32).mul_(self._scale).add_(self._shift)

    def _laid_out(self, x: Tensor) -> Tensor:
        """As the network is given it."""
        return x.to(self.dtype).contiguous(memory_format=self.memory_format)

    def _check(self) -> None:
        n = self.count
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
                way_out="batch_size counts the images of all ranks together",
            )


def stream(*numbers: int) -> torch.Generator:
    """A CPU generator that is a function of the numbers; streams of different numbers differ.

    The numbers are hashed: seed + epoch would give run 1, epoch 0 the stream of run 0, epoch 1.

    Example:
        >>> seeds = [stream(*pair).initial_seed() for pair in ((0, 1), (0, 1), (1, 0))]
        >>> seeds[0] == seeds[1], seeds[0] == seeds[2]
        (True, False)
    """
    return torch.Generator().manual_seed(seed_of(*numbers))


def _with_own_pages(x: Tensor) -> Tensor:
    """For x in float32.

    On a CPU all but small batches have pages of their own, which go back to the system with them.
    glibc would keep them, split them for what is small, and take more for the next batch.
    """
    size = 4 * x.numel()
    if x.device.type != "cpu" or size < LARGE:
        return torch.empty(x.shape, dtype=torch.float32, device=x.device)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.from_numpy(np.frombuffer(pages, dtype=np.float32)).view(x.shape)
