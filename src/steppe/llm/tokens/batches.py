"""Batches of windows: the same for every start of a run, at any place of it."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.llm.tokens.packed import PackedText, Source


@dataclass(frozen=True, kw_only=True)
class TokenBatches:
    """Batches of windows; each is a pure function of seed, epoch, position, rank and world.

    Each text is passed over in an order drawn from the seed for each pass, as often as it takes. An
    epoch of N windows has round(share N) of each text of a mixture (what is lost by rounding goes
    to those that lost most), in an order drawn from the seed and the epoch.

    Args:
        text: the windows.
        batch_size: windows in a batch over all ranks together.
        length: batches in an epoch; if none is given, as many as there are until the first of the
            texts was passed over once. A last batch that is not full is left out.
        seed: of all orders.
        rank: this process; it gets windows rank, rank + world, ... of each batch.
        world: number of processes; divides the batch size.
        device: where the batches go.

    Raises:
        SteppeError: the texts hold no batch, or the processes do not divide it.

    Example:
        >>> text = PackedText.of_tokens(torch.arange(12).view(6, 2))
        >>> batches = TokenBatches(text=text, batch_size=2)
        >>> len(batches), [x.shape for x, _ in batches.epoch(0, start=2)]
        (3, [torch.Size([2, 2])])
    """

    text: PackedText
    batch_size: int
    length: int | None = None
    seed: int = 0
    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.world:
            raise SteppeError(
                "a batch is divided among the processes",
                got=f"--batch-size {self.batch_size} and {self.world} processes",
                way_out=f"--batch-size {max(-(-self.batch_size // self.world), 1) * self.world}",
            )
        there = sum(source.trained for source in self.text.sources)
        if len(self) < 1 or there < self.batch_size:
            raise self._too_few(there)

    def _too_few(self, there: int) -> SteppeError:
        window, size = self.text.window, self.batch_size
        fits = self.text.largest_batch // self.world * self.world
        names = ", ".join(source.name for source in self.text.sources)
        return SteppeError(
            f"the text must hold a batch of {size} windows, {size * window} tokens",
            got=f"{there} windows, {there * window} tokens, in {names}",
            way_out=f"--batch-size {fits}, a shorter --window, or a longer text"
            if fits
            else "a shorter --window, or a longer text",
        )

    def __len__(self) -> int:
        if self.length is not None:
            return self.length
        once = min(math.floor(s.trained / s.share + 1e-9) for s in self.text.sources)
        return once // self.batch_size

    def steps(self, tokens: int) -> int:
        """Batches that hold so many tokens, rounded up.

        Example:
            >>> text = PackedText.of_tokens(torch.zeros(9, 4).long())
            >>> TokenBatches(text=text, batch_size=2).steps(50)
            7
        """
        return -(-tokens // (self.batch_size * self.text.window))

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from some position on; nothing before it is read.

        Args:
            number: of the epoch, from 0.
            start: batches that are left out.

        Yields:
            Ids, int64, shape [batch_size / world, window], which are their own targets.
        """
        sources, size = self.text.sources, self.batch_size
        counts = _counts([s.share for s in sources], len(self) * size)
        labels = torch.repeat_interleave(torch.arange(len(sources)), torch.tensor(counts))
        labels = labels[_order(len(labels), self.seed, "epoch", number)]
        drawn = torch.bincount(labels[: start * size], minlength=len(sources)).tolist()
        endless = [
            _Endless(source, number * count + done, (self.seed, i))
            for i, (source, count, done) in enumerate(zip(sources, counts, drawn, strict=True))
        ]
        for position in range(start, len(self)):
            chosen = labels[position * size : (position + 1) * size].tolist()
            rows = [(label, next(endless[label])) for label in chosen][self.rank :: self.world]
            tokens = torch.stack([sources[i].windows.take([row])[0] for i, row in rows])
            tokens = tokens.to(self.device)
            yield tokens, tokens


class _Endless:
    """Numbers of a text's windows, pass after pass.

    Args:
        source: the text.
        start: numbers that are left out.
        seed: of the order of each pass.
    """

    def __init__(self, source: Source, start: int, seed: tuple[int, int]) -> None:
        self._count, self._seed = source.trained, seed
        done, position = divmod(start, self._count)
        passes = (self._pass(k) for k in itertools.count(done))
        self._numbers = itertools.islice(itertools.chain.from_iterable(passes), position, None)

    def _pass(self, number: int) -> list[int]:
        seed, source = self._seed
        order: list[int] = _order(self._count, seed, f"source {source}", number).tolist()
        return order

    def __next__(self) -> int:
        return next(self._numbers)


def _order(count: int, *seed: object) -> Tensor:
    """A permutation that is drawn from all of the seed."""
    digest = hashlib.sha256(repr(seed).encode()).digest()
    drawn = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randperm(count, generator=drawn)


def _counts(shares: list[float], total: int) -> list[int]:
    """How many of a total each share gets: whole numbers that add up to it."""
    exact = [share * total for share in shares]
    counts = [math.floor(x) for x in exact]
    lost = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for i in lost[: total - sum(counts)]:
        counts[i] += 1
    return counts
