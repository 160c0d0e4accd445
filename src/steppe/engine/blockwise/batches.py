"""The order of calibration windows in the training of a block, and its learning rate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from steppe.engine import ranks
from steppe.engine.blockwise.config import ReconstructionConfig
from steppe.engine.optim import lr_factor


def batches(
    config: ReconstructionConfig, windows: Tensor, seed: int
) -> Iterator[tuple[Tensor, float]]:
    """Batch after batch of all epochs, with the learning rate of its step.

    Args:
        config: epochs, batch size, peak learning rate, warm-up.
        windows: indices of those that are trained on.
        seed: of their order.

    Example:
        >>> config = ReconstructionConfig(epochs=2, warmup_epochs=1, batch_size=2, lr=1.0)
        >>> [(len(b), round(lr, 2)) for b, lr in batches(config, torch.arange(3), 0)]
        [(2, 0.4), (1, 0.8), (2, 0.8), (1, 0.4)]
    """
    total = -(-len(windows) // config.batch_size) * config.epochs
    factor = lr_factor("linear", config.warmup_epochs / config.epochs)
    order, step = torch.Generator().manual_seed(seed), 0
    for _ in range(config.epochs):
        shuffled = windows[torch.randperm(len(windows), generator=order)]
        for batch in shuffled.split(config.batch_size):
            step += 1
            yield batch, config.lr * factor(step / (total + 1))


def share(batch: Tensor) -> tuple[Tensor, float]:
    """This process's part of a batch, and the weight of each window in its loss.

    The processes' gradients are averaged, so a loss is weighted by the process's share of the
    batch; one that got no window takes part in the exchange with a weight of 0.
    """
    mine = batch[ranks.rank() :: ranks.world()]
    return (mine, ranks.world() / len(batch)) if len(mine) else (batch[:1], 0.0)
