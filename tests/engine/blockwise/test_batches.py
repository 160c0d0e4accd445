"""The order of windows: every one once an epoch, the rate up and down, a process's share."""

from __future__ import annotations

import torch

from steppe.engine.blockwise.batches import batches, share
from steppe.engine.blockwise.config import ReconstructionConfig


def test_every_window_once_in_each_epoch() -> None:
    config = ReconstructionConfig(epochs=3, warmup_epochs=1, batch_size=4, lr=2.0)
    windows = torch.tensor([1, 4, 5, 7, 9, 11])
    drawn = list(batches(config, windows, 5))
    epochs = [torch.cat([b for b, _ in drawn[i : i + 2]]) for i in (0, 2, 4)]
    assert all(sorted(e.tolist()) == windows.tolist() for e in epochs)
    assert len({tuple(e.tolist()) for e in epochs}) > 1
    rates = [lr for _, lr in drawn]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < min(rates)
    assert max(rates) <= 2.0
    again = list(batches(config, windows, 5))
    assert all(torch.equal(a, b) and x == y for (a, x), (b, y) in zip(drawn, again, strict=True))


def test_one_process_has_the_whole_batch() -> None:
    mine, weight = share(torch.tensor([3, 1, 2]))
    assert mine.tolist() == [3, 1, 2]
    assert weight == 1 / 3
