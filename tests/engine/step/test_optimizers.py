"""One or several optimisers: cleared, stepped, saved and resumed together."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import steppe
from steppe import SteppeError, methods

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
Y = torch.arange(32) % 4
METHODS = {
    "dense": methods.dense(),
    "gmp": methods.gmp(sparsity=0.5, every=1),
    "safe": methods.safe(sparsity=0.5, rho=0.05, penalty=0.1, interval=2),
    "safe_plus": methods.safe_plus(sparsity=0.5, penalty=0.1, interval=2),
    "lth": methods.lth(sparsity=0.5, cycles=2),
    "pilot": methods.pilot(sparsity=0.5, decay="constant"),
    "lasso": methods.lasso(sparsity=0.5),
    "soft_threshold": methods.soft_threshold(sparsity=0.5),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 4))


def pair(model, **options):
    """Matrices in one optimiser, all else in the other; alike, so that one could do it all."""
    parts = (
        [p for p in model.parameters() if p.ndim > 1],
        [p for p in model.parameters() if p.ndim < 2],
    )
    return [torch.optim.SGD(p, **({"lr": 0.1, "momentum": 0.9} | options)) for p in parts]


def loss(model):
    return F.cross_entropy(model(X), Y)


def vector(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def run(method, optimizers, steps=6, **given):
    model = network()
    several = optimizers(model)
    sparsifier = steppe.sparsify(model, several, method, steps, **given)
    for _ in range(steps):
        sparsifier.step(lambda: loss(model))
    sparsifier.finish()
    return vector(model)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_two_are_as_one_of_the_same_kind(method):
    def one(model):
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    # the norm of a perturbation is summed in another order
    torch.testing.assert_close(run(method, one), run(method, pair), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_two_are_resumed_bit_for_bit(method):
    def make():
        model = network()
        several = pair(model)
        sparsifier = steppe.sparsify(model, several, method, 6)
        rates = [torch.optim.lr_scheduler.ExponentialLR(o, 0.8) for o in several]
        return model, sparsifier, rates

    def go(made, steps):
        model, sparsifier, rates = made
        for _ in range(steps):
            sparsifier.step(lambda: loss(model))
            for rate in rates:
                rate.step()

    whole, first, second = make(), make(), make()
    torch.manual_seed(5)
    go(whole, 6)
    torch.manual_seed(5)
    go(first, 3)
    second[0].load_state_dict(first[0].state_dict())
    state = copy.deepcopy(first[1].state_dict())
    for rate, other in zip(second[2], first[2], strict=True):
        rate.load_state_dict(other.state_dict())
    second[1].load_state_dict(state)
    go(second, 3)
    assert torch.equal(vector(second[0]), vector(whole[0]))
    alone = steppe.sparsify(
        (model := network()), torch.optim.SGD(model.parameters(), lr=0.1), method, 6
    )
    with pytest.raises(SteppeError, match="2 in the state, 1 here"):
        alone.load_state_dict(state)


def test_muon_for_the_matrices():
    def both(model):
        rest = [p for p in model.parameters() if p.ndim < 2]
        matrices = [p for p in model.parameters() if p.ndim == 2]
        return [torch.optim.Muon(matrices, lr=0.01), torch.optim.AdamW(rest, lr=0.01)]

    for method in (METHODS["safe"], METHODS["gmp"], METHODS["pilot"]):
        vector_ = run(method, both, clip_grad_norm=1.0)
        assert vector_.isfinite().all()
        assert int((vector_ == 0).sum()) == 80


@pytest.mark.parametrize("name", ["gmp", "safe", "safe_plus"])
def test_a_second_optimizer_of_ones_own_gets_the_gradient_at_x(name):
    def gradient(sparse):
        model = network()
        torch.manual_seed(3)
        own, other = pair(model)
        if sparse:
            steppe.sparsify(model, own, METHODS[name], 2).step(lambda: loss(model))
        else:
            loss(model).backward()
        return [p.grad for g in other.param_groups for p in g["params"]]

    assert all(map(torch.equal, gradient(True), gradient(False)))


def test_what_lies_outside_of_the_model_is_not_counted_twice():
    model, scale, x = network()[:1], nn.Parameter(torch.ones(())), X.clone().requires_grad_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = steppe.sparsify(model, optimizer, methods.dense(rho=0.2), 2)
    for _ in range(2):
        sparsifier.step(lambda: (model(x) * scale).square().mean())
    (model(x) * scale).square().mean().backward()  # adds the same once more
    torch.testing.assert_close(
        scale.grad / 3, torch.autograd.grad((model(x) * scale).square().mean(), scale)[0]
    )
    torch.testing.assert_close(
        x.grad / 3, torch.autograd.grad((model(x) * scale).square().mean(), x)[0]
    )


def test_a_parameter_in_two_optimizers_is_refused():
    model = network()
    two = [torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2)]
    with pytest.raises(SteppeError, match="in one optimizer only; got 4"):
        steppe.sparsify(model, two, METHODS["gmp"], 2)
    with pytest.raises(SteppeError, match="list where a Optimizer belongs"):
        steppe.sparsify(model, [], METHODS["gmp"], 2)


def test_one_that_overflows_leaves_the_other_alone():
    """Each looks at its own gradients; the coupling does nothing with what was not moved."""
    model = network()
    model[1].p = 0.0
    several = pair(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    sparsifier = steppe.sparsify(model, several, METHODS["lasso"], 3, scaler=scaler)
    sparsifier.step(lambda: loss(model))
    weight, bias = model[0].weight.detach().clone(), model[0].bias.detach().clone()
    handle = model[0].weight.register_hook(lambda g: g * float("inf"))
    sparsifier.step(lambda: loss(model))
    handle.remove()
    assert torch.equal(model[0].weight, weight), "shrunk without a step"
    assert not torch.equal(model[0].bias, bias)
    sparsifier.step(lambda: loss(model))
    assert not torch.equal(model[0].weight, weight)
