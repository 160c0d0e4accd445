"""Random numbers that belong to an image, whatever batch and device it is in."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, int], None]


class Draws:
    """A stream of random numbers for each image.

    Philox, a counter-based generator: its key is (seed, purpose), its counter (image, call). So
    no state is kept, nothing depends on how images are batched, and the draws are made on the
    host for every device.

    Args:
        seed: of everything.
        purpose: what the numbers are for; another purpose has other numbers.
        images: indices of the images in the whole set.
        device: where the numbers are wanted.

    Example:
        >>> whole = Draws(0, "noise", range(4)).normal(2)
        >>> torch.equal(whole[3:], Draws(0, "noise", range(3, 4)).normal(2))
        True
    """

    def __init__(
        self,
        seed: int,
        purpose: str,
        images: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
        self._key = int.from_bytes(digest, "little")
        self._images, self._device, self._calls = images, device, 0

    def __len__(self) -> int:
        return len(self._images)

    def _fill(self, out: Array, draw: Draw) -> Tensor:
        """One call of ``draw(stream, row)`` for each image, in several threads."""
        self._calls += 1
        threads = max(1, min(torch.get_num_threads(), len(out)))

        def fill_rows(first: int) -> None:
            bits = np.random.Philox(key=self._key)
            stream, start = np.random.Generator(bits), bits.state
            for row in range(first, len(out), threads):
                counter = np.array([0, self._calls, self._images[row], 0], dtype=np.uint64)
                state = dict(start["state"], counter=counter)
                bits.state = dict(start, state=state)  # type: ignore[assignment]
                draw(stream, row)

        if threads == 1:
            fill_rows(0)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(fill_rows, range(threads)))
        return torch.from_numpy(out).to(self._device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal values, ``[images, *shape]`` float32."""
        out = np.empty((len(self), math.prod(shape)), dtype=np.float32)

        def draw(stream: np.random.Generator, i: int) -> None:
            stream.standard_normal(out=out[i], dtype=np.float32)

        return self._fill(out, draw).view(len(self), *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform values in [low, high), ``[images, *shape]`` float32."""
        out = np.empty((len(self), math.prod(shape)), dtype=np.float32)

        def draw(stream: np.random.Generator, i: int) -> None:
            stream.random(out=out[i], dtype=np.float32)

        return self._fill(out, draw).mul_(high - low).add_(low).view(len(self), *shape)

    def integers(self, *shape: int, low: int, high: int) -> Tensor:
        """Whole numbers low <= i < high, ``[images, *shape]`` int64."""
        out = np.empty((len(self), *shape), dtype=np.int64)

        def draw(stream: np.random.Generator, i: int) -> None:
            out[i] = stream.integers(low, high, size=shape)

        return self._fill(out, draw)

    def poisson(self, rates: Tensor) -> Tensor:
        """Poisson counts of rates ``[images, ...]``, float32."""
        means = rates.double().cpu().numpy()
        out = np.empty(means.shape, dtype=np.float32)

        def draw(stream: np.random.Generator, i: int) -> None:
            out[i] = stream.poisson(means[i])

        return self._fill(out, draw)
