"""ASAM: the ball is measured in the weights' own scale."""

import pytest
import torch
from torch import nn

from steppe.perturb.asam import Asam

NAMES = ["a.weight", "a.bias", "b.weight"]


def example():
    weights = [torch.randn(4, 3).double(), torch.randn(4).double(), torch.randn(2, 4).double()]
    return weights, [torch.randn_like(w) for w in weights]


@pytest.mark.parametrize("eta", [0.0, 0.01, 0.5])
def test_equation_5(eta):
    weights, grads = example()
    eps = Asam(rho=0.7, eta=eta).perturbation(weights, grads, NAMES)
    t = [weights[0].abs() + eta, torch.ones(4).double(), weights[2].abs() + eta]
    length = sum(float((a * g).square().sum()) for a, g in zip(t, grads, strict=True)) ** 0.5
    for e, a, g in zip(eps, t, grads, strict=True):
        torch.testing.assert_close(e, 0.7 * a * a * g / length, rtol=1e-6, atol=0)
    radius = sum(float((e / a).square().sum()) for e, a in zip(eps, t, strict=True)) ** 0.5
    assert radius == pytest.approx(0.7, rel=1e-6)


def test_a_zero_weight_stays_zero():
    weights, grads = example()
    weights[0][1] = 0.0
    eps = Asam(eta=0.0).perturbation(weights, grads, NAMES)
    assert not eps[0][1].any()
    assert eps[0][0].all()


def test_rescaling_a_layer_by_the_next_changes_nothing():
    """ReLU nets compute the same with a W1 and W2 / a; their sharpness must be the same too."""
    x, y = torch.randn(8, 5).double(), torch.randn(8, 2).double()

    def perturbed_loss(factor):
        torch.manual_seed(1)
        first, second = nn.Linear(5, 6, bias=False), nn.Linear(6, 2, bias=False)
        params = [(first.weight.double() * factor), (second.weight.double() / factor)]
        params = [p.detach().requires_grad_() for p in params]

        def loss(a, b):
            return (((x @ a.T).relu() @ b.T) - y).square().mean()

        grads = torch.autograd.grad(loss(*params), params)
        detached = [p.detach() for p in params]
        eps = Asam(rho=0.5, eta=0.0).perturbation(detached, list(grads), ["weight", "weight"])
        return float(loss(*[p + e for p, e in zip(detached, eps, strict=True)]))

    assert perturbed_loss(1.0) == pytest.approx(perturbed_loss(7.0), rel=1e-6)
