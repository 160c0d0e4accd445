"""Windows of text in batches: the same for every start of a run, at any place of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.engine.trainer import Batches
from steppe.llm.calibration_windows import sha256, windows
from steppe.llm.text import read, tokenize, too_short


@dataclass(frozen=True, kw_only=True)
class TokenBatches:
    """Batches of windows, in an order drawn from the seed for each pass over them.

    Args:
        windows: token ids, int64, shape [windows, window].
        batch_size: windows in a batch over all ranks together.
        seed: of the orders.
        rank: this process; it gets windows rank, rank + world, ... of each batch.
        world: number of processes; divides the batch size.
        device: where the batches go.

    Example:
        >>> batches = TokenBatches(windows=torch.arange(6).view(3, 2), batch_size=1)
        >>> len(batches), [x.shape for x, _ in batches.epoch(0, start=2)]
        (3, [torch.Size([1, 2])])
    """

    windows: Tensor
    batch_size: int
    seed: int = 0
    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.windows) // self.batch_size

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of a pass from some position on: ids, which are their own targets."""
        draw = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)
        order = torch.randperm(len(self.windows), generator=draw)
        for position in range(start, len(self)):
            first = position * self.batch_size
            rows = order[first : first + self.batch_size][self.rank :: self.world]
            tokens = self.windows[rows].to(self.device)
            yield tokens, tokens


@dataclass(frozen=True)
class Repeated:
    """Batches pass after pass, cut into equal parts of a run whatever the length of a pass.

    Args:
        batches: of one pass.
        length: batches in a part.

    Example:
        >>> one = TokenBatches(windows=torch.arange(6).view(3, 2), batch_size=1)
        >>> len(list(Repeated(one, 5).epoch(1)))
        5
    """

    batches: Batches
    length: int

    def __len__(self) -> int:
        return self.length

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of a part from some position on."""
        left = self.length - start
        done, position = divmod(number * self.length + start, len(self.batches))
        while left:
            for batch in self.batches.epoch(done, position):
                yield batch
                left -= 1
                if not left:
                    return
            done, position = done + 1, 0


def token_windows(source: str | Path, tokenizer: Any, window: int) -> tuple[Tensor, dict[str, Any]]:
    """All of a text in windows that follow each other, its remainder dropped.

    Args:
        source: see `steppe.llm.text.read`; or a ``.safetensors`` file of token ids.
        tokenizer: the model's; not needed for ids.
        window: tokens in each.

    Returns:
        Ids [windows, window], and what a record says of them.

    Raises:
        SteppeError: it cannot be read, or holds no window.
    """
    if str(source).endswith(".safetensors"):
        rows = windows(source).tokens
        if rows.shape[1] != window:
            raise SteppeError(
                "windows of token ids are trained on as they are",
                got=f"windows of {rows.shape[1]} tokens in {source}, and a window of {window}",
                way_out=f"--window {rows.shape[1]}",
            )
    else:
        tokens = tokenize(tokenizer, read(source, "train").joined())
        if len(tokens) < window:
            raise too_short(str(source), len(tokens), window, 0)
        rows = tokens[: len(tokens) // window * window].view(-1, window)
    said = {"source": str(source), "sha256": sha256(rows), "windows": len(rows), "window": window}
    return rows, said
