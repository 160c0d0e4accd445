"""Optimisers whose steps cannot be taken are refused before any work."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer

import steppe
from steppe import SteppeError, methods


class Sam(torch.optim.Optimizer):
    """As the wrappers of public repositories: two steps, or one with a closure."""

    def __init__(self, params, base):
        super().__init__(params, {})
        self.base = base(self.param_groups, lr=0.1)

    def first_step(self, zero_grad=False):
        raise AssertionError("called")

    second_step = first_step

    def step(self, closure=None):
        assert closure is not None, "Sharpness Aware Minimization requires closure"


class Asks(torch.optim.SGD):
    """Has a default for its closure and refuses it."""

    def step(self, closure=None):
        if closure is None:
            raise RuntimeError("needs a closure that re-evaluates the loss")


class Counts(torch.optim.SGD):
    """Any other: is not stepped by being looked at."""

    steps = 0

    def step(self, closure=None):
        if any(group["params"] for group in self.param_groups):
            type(self).steps += 1
        return super().step(closure)


KINDS = {
    "LBFGS": lambda p: torch.optim.LBFGS(p),
    "Sam": lambda p: Sam(p, torch.optim.SGD),
    "Asks": lambda p: Asks(p, lr=0.1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_needs_a_closure(kind):
    model = nn.Linear(4, 2)
    with pytest.raises(SteppeError, match=f"{kind}, whose step calls a closure"):
        steppe.sparsify(model, KINDS[kind](model.parameters()), methods.gmp(sparsity=0.5), 3)
    several = [torch.optim.SGD([model.weight], lr=0.1), KINDS[kind]([model.bias])]
    with pytest.raises(SteppeError, match=f"{kind}, whose step calls a closure"):
        steppe.sparsify(model, several, methods.dense(), 3)


def test_looking_at_an_optimizer_steps_nothing():
    model = nn.Linear(4, 2)
    model(torch.ones(1, 4)).sum().backward()
    before = model.weight.detach().clone()
    optimizer = Counts(model.parameters(), lr=0.1)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)  # replaces its step
    sparsifier = steppe.sparsify(model, optimizer, methods.gmp(sparsity=0.5), 3)
    assert Counts.steps == 0
    assert torch.equal(model.weight, before)
    sparsifier.step(lambda: model(torch.ones(1, 4)).sum())
    assert Counts.steps == 1


def test_unknown_step_sizes_are_refused_before_any_step():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.Adadelta(model.parameters())
    with pytest.raises(SteppeError, match="Adadelta"):
        steppe.sparsify(model, optimizer, methods.lasso(sparsity=0.5), 3)


@pytest.fixture
def alone():
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")
def test_a_sharded_optimizer_holds_no_other_weights_but_the_momentum(alone):
    def trained(make):
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        optimizer = make(model.parameters(), lr=0.1, momentum=0.9)
        sparsifier = steppe.sparsify(model, optimizer, methods.safe(sparsity=0.5), 3)
        for _ in range(3):
            sparsifier.step(lambda: model(torch.ones(1, 4)).square().sum())
        return model

    def sharded(params, **options):
        return ZeroRedundancyOptimizer(params, torch.optim.SGD, **options)

    assert torch.equal(*(trained(make).weight for make in (sharded, torch.optim.SGD)))
    model = nn.Linear(4, 2)
    optimizer = sharded(model.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(SteppeError, match="ZeroRedundancyOptimizer, whose momentum lies in"):
        steppe.sparsify(model, optimizer, methods.dense().replace(perturb="msam"), 3)
