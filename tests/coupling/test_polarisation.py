"""Scales go to zero or to one value, whatever their order."""

import pytest
import torch

from steppe import Method, SteppeError
from steppe.core.step_context import StepContext
from steppe.coupling.polarisation import Polarisation


def context_of(weights, grads):
    return StepContext(
        step=0, total=1, sparsity=0.5, due=False, weights=weights, project=None, grads=grads
    )


def gradient(coupling, *gammas):
    weights = {f"n{i}.weight": g.clone() for i, g in enumerate(gammas)}
    weights |= {"n0.bias": torch.ones(3), "c.weight": torch.ones(3, 3)}
    grads = {n: torch.zeros_like(w) for n, w in weights.items()}
    coupling.add_gradient(context_of(weights, grads))
    assert not grads["n0.bias"].any()
    assert not grads["c.weight"].any()
    return [grads[f"n{i}.weight"] for i in range(len(gammas))]


@pytest.mark.parametrize("detach", [False, True])
def test_it_is_the_gradient_of_the_regulariser(detach):
    gammas = torch.rand(4, requires_grad=True), torch.rand(7, requires_grad=True)
    joined = torch.cat(gammas)
    mean = joined.mean().detach() if detach else joined.mean()
    (0.3 * (1.4 * joined.abs() - (joined - mean).abs()).sum()).backward()
    coupling = Polarisation(penalty=0.3, t=1.4, detach=detach)
    for made, gamma in zip(gradient(coupling, *[g.detach() for g in gammas]), gammas, strict=True):
        torch.testing.assert_close(made, gamma.grad)


def test_the_order_does_not_matter():
    gamma, order = torch.rand(9), torch.randperm(9)
    (plain,), (mixed,) = (gradient(Polarisation(penalty=1.0), g) for g in (gamma, gamma[order]))
    torch.testing.assert_close(plain[order], mixed)


def test_the_minimum_has_two_values():
    coupling = Polarisation(penalty=0.01, t=1.0)
    weights = {"n.weight": torch.rand(40, generator=torch.Generator().manual_seed(0))}
    for _ in range(2000):
        grads = {"n.weight": torch.zeros(40)}
        context = context_of(weights, grads)
        coupling.add_gradient(context)
        weights["n.weight"] -= grads["n.weight"]
        coupling.after_step(context)
    gamma = weights["n.weight"]
    assert gamma.min() >= 0.0
    assert gamma.max() <= 1.0
    low, high = gamma < 0.05, gamma > gamma.max() - 0.05
    assert (low | high).all()
    assert 0 < int(low.sum()) < 40


def test_scales_stay_between_0_and_1(grouped):
    coupling = {"name": "polarisation", "penalty": 0.5, "initial": 0.5}
    method = Method(
        structure="channel",
        score="bn_gamma",
        budget={"name": "pooled", "sparsity": 0.5},
        coupling=coupling,
    )
    net, sparsifier = grouped.train(method, steps=5)
    for norm in (net.norm, net.norm1):
        assert (norm.weight.detach() != 1.0).any()
        assert norm.weight.min() >= 0.0
        assert norm.weight.max() <= 1.0
    assert sparsifier.finish().units_zeroed == 7


def test_wrong_options():
    for wrong in ({"penalty": -1.0}, {"t": float("nan")}):
        with pytest.raises(SteppeError, match="polarisation needs"):
            Polarisation(**wrong)
    with pytest.raises(SteppeError, match="scales lie in"):
        Polarisation(initial=2.0)
