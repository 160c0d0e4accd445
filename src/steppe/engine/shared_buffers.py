"""Buffers of a network that several processes train: the same in all of them.

Each process sees its share of a batch, and so has batch norm statistics of its own after it. DDP
takes the first one's before the next pass; what is measured and kept between two passes must be
one network as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from steppe.core.text import counted
from steppe.engine import ranks
from steppe.engine.step.batchnorm import reestimate, running_norms


@torch.no_grad()
def as_first(model: nn.Module) -> None:
    """Every buffer as the first process has it, as DDP does before a pass.

    Args:
        model: the same in all processes, who all call this.
    """
    if ranks.world() > 1:
        ranks.from_first(buffer for buffer in model.buffers() if not is_lazy(buffer))


@torch.no_grad()
def new_statistics(
    model: nn.Module,
    batches: Iterable[Tensor],
    forward: Callable[[nn.Module, Tensor], object] = lambda model, x: model(x),
) -> list[str]:
    """Running statistics anew, from the batches of all processes; each runs its own share.

    Args:
        model: the same in all processes, who all call this.
        batches: inputs, as in training; as many in each process.
        forward: how the model is called.

    Returns:
        A sentence on what was done; none where the model has no such statistics.

    Example:
        >>> new_statistics(nn.BatchNorm1d(2), [torch.randn(8, 2)] * 3)
        ['running statistics of 1 norm estimated from 3 batches']
    """
    used = reestimate(model, batches, forward)
    if not used:
        return []
    norms = running_norms(model).values()
    if ranks.world() > 1:
        for statistic in (s for n in norms for s in (n.running_mean, n.running_var)):
            if statistic is not None:
                ranks.add_up([statistic])
                statistic /= ranks.world()
    shared = f", a share of each in {ranks.world()} processes" * (ranks.world() > 1)
    batch = counted(used, "batch", "batches")
    return [f"running statistics of {counted(len(norms), 'norm')} estimated from {batch}{shared}"]
