"""What the optimisers of a run remember of the weights that are pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from steppe.core.statistic import WeightMemory
from steppe.engine.step.optimizers import Optimizers


def weight_memories(
    optimizers: Optimizers, parameters: Mapping[str, nn.Parameter]
) -> Callable[[str], WeightMemory]:
    """From the name of a weight to the memory of its optimiser, as it is when it is asked.

    Args:
        optimizers: of the run.
        parameters: name -> a weight that one of them holds.

    Example:
        >>> import torch
        >>> p = nn.Parameter(torch.ones(2)); p.grad = torch.ones(2)
        >>> optimizer = torch.optim.AdamW([p]); optimizer.step()
        >>> sorted(weight_memories(Optimizers([optimizer], None), {"a": p})("a").entries)
        ['exp_avg', 'exp_avg_sq', 'step']
    """

    def memory(name: str) -> WeightMemory:
        p = parameters[name]
        optimizer = optimizers.owners()[id(p)]
        group = next(g for g in optimizer.param_groups if any(q is p for q in g["params"]))
        entries = optimizer.state.get(p, {})
        stepped = bool(entries) or id(p) in optimizers.forgotten
        options = {key: value for key, value in group.items() if key != "params"}
        return WeightMemory(type(optimizer).__name__, options, entries, tuple(p.shape), stepped)

    return memory
