"""What the optimisers of a run remember of its weights, looked up when it is asked."""

from __future__ import annotations

import torch
from torch import nn

from steppe.engine.step.optimizers import Optimizers
from steppe.engine.step.weight_memories import weight_memories


def test_of_the_optimiser_that_holds_the_weight_as_it_is_now() -> None:
    p, q = (nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    adam = torch.optim.Adam([{"params": [nn.Parameter(torch.ones(1))]}, {"params": [p], "lr": 0.5}])
    both = Optimizers([adam, torch.optim.SGD([q], lr=0.1)], None)
    memory = weight_memories(both, {"p": p, "q": q})
    before = memory("p")
    assert (before.optimizer, before.options["lr"], before.shape) == ("Adam", 0.5, (2, 3))
    assert "params" not in before.options
    assert not before.stepped
    for parameter in (p, q):
        parameter.grad = torch.ones_like(parameter)
    both.step()
    assert memory("p").stepped
    assert memory("p").entries["exp_avg_sq"] is adam.state[p]["exp_avg_sq"]
    plain = memory("q")
    assert (plain.optimizer, dict(plain.entries), plain.stepped) == ("SGD", {}, True)
