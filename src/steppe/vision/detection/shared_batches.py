"""A batch of which several processes have a part each."""

from __future__ import annotations

from torch import Tensor

from steppe.engine import ranks


def divisor(count: Tensor, shared: bool, least: float = 1.0) -> Tensor:
    """What a sum over a batch is divided by to become a mean.

    Where processes share a batch, each divides its own sum by the count of all over their number:
    the mean over the processes, which gradients become, is then that of the whole batch.

    Args:
        count: of what the sum is over; a scalar.
        shared: whether every process has a part of the batch, so that all call this.
        least: the count is at least this.

    Example:
        >>> import torch
        >>> divisor(torch.tensor(0), shared=False)
        tensor(1.)
    """
    count = count.float()
    if not shared:
        return count.clamp_min(least)
    ranks.add_up([count])
    return count.clamp_min(least) / ranks.world()
