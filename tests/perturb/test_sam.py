"""SAM: one step of length rho along the gradient."""

import pytest
import torch

import steppe
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


def test_every_so_manyth_step_takes_two_gradients():
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = steppe.methods.safe(sparsity=0.5).replace(perturb={"name": "sam", "every": 3})
    sparsifier = steppe.sparsify(model, optimizer, method, total_steps=7)
    calls = []

    def loss():
        calls.append(sparsifier.steps_done)
        return model(torch.ones(3, 4)).square().mean()

    for _ in range(7):
        sparsifier.step(loss)
    assert [calls.count(step) for step in range(7)] == [2, 1, 1, 2, 1, 1, 2]


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_impossible_every(every):
    with pytest.raises(steppe.SteppeError, match="every"):
        Sam(every=every)
