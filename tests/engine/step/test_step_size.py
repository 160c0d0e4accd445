"""A constant gradient moves a weight by pace times it in every step, in the long run."""

import pytest
import torch
from torch import nn

from steppe import SteppeError
from steppe.engine.step.step_size import step_sizes

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "dampened": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.95)),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
    "rmsprop-momentum": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, lr_decay=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_pace_times_gradient(name):
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer, gradient = OPTIMIZERS[name]([p]), torch.tensor([0.5, -2.0, 1e-3]).double()
    for _ in range(2000):
        before = p.detach().clone()
        p.grad = gradient.clone()
        optimizer.step()
    moved = before - p.detach()
    torch.testing.assert_close(
        moved, step_sizes(optimizer, {"a": p})["a"] * gradient, rtol=1e-3, atol=0
    )


def test_a_skipped_first_step_has_no_pace():
    p = nn.Parameter(torch.zeros(3))
    assert step_sizes(torch.optim.Adam([p]), {"a": p}) == {}


def test_unknown_optimizers_are_refused():
    p = nn.Parameter(torch.zeros(3))
    with pytest.raises(SteppeError, match="NAdam"):
        step_sizes(torch.optim.NAdam([p]), {"a": p})
