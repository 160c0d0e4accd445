"""SAM: one step of length rho along the gradient."""

import pytest
import torch

from steppe.perturb.sam import Sam


@pytest.mark.parametrize("rho", [0.01, 0.1, 2.0])
def test_length_and_direction(rho):
    grads = [torch.randn(4, 3), torch.randn(4), torch.tensor(0.3)]
    weights = [torch.randn_like(g) for g in grads]
    eps = Sam(rho=rho).perturbation(weights, grads, ["a", "b", "c"])
    flat, g = (torch.cat([t.flatten() for t in ts]) for ts in (eps, grads))
    assert float(flat.norm()) == pytest.approx(rho, rel=1e-6)
    torch.testing.assert_close(flat, rho * g / g.norm())


def test_the_loss_at_x_plus_eps_is_larger_where_it_is_convex():
    torch.manual_seed(2)
    a = torch.randn(6, 6)
    x = torch.randn(6, requires_grad=True)

    def loss(x):
        return (a @ x).square().sum()

    (g,) = torch.autograd.grad(loss(x), x)
    for rho in (1e-3, 1e-2, 1.0):
        (eps,) = Sam(rho=rho).perturbation([x.detach()], [g], ["x"])
        assert loss(x.detach() + eps) >= loss(x.detach())
