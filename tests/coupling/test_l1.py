"""The proximal step ends where the penalised problem says, whatever the optimiser's metric."""

import pytest
import torch
from sklearn.linear_model import Lasso
from torch import nn

import steppe
from steppe import Method, SteppeError
from steppe.coupling.l1 import L1

ALPHA = 0.1
G = torch.Generator().manual_seed(0)
Z = torch.randn(60, 12, generator=G, dtype=torch.float64)
TRUTH = torch.tensor([2.0, -1.5, 1.0] + [0.0] * 9, dtype=torch.float64)
Y = Z @ TRUTH + 0.3 * torch.randn(60, generator=G, dtype=torch.float64)

OPTIMIZERS = {
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.1), 2000),
    "momentum": (lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9), 3000),
    "adam": (lambda p: torch.optim.Adam(p, lr=0.003), 8000),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, lr=0.001, alpha=0.999), 12000),
    "adagrad": (lambda p: torch.optim.Adagrad(p, lr=0.3), 4000),
}


def trained(optimizer, steps, step="proximal", sparsity=0.0):
    model = nn.Linear(12, 1, bias=False).double()
    method = Method(
        budget={"name": "pooled", "sparsity": sparsity},
        schedule="one_shot",
        coupling={"name": "l1", "alpha": ALPHA, "step": step},
    )
    s = steppe.sparsify(model, optimizer(model.parameters()), method, steps)
    for _ in range(steps):
        s.step(lambda: 0.5 * (model(Z)[:, 0] - Y).square().mean())
    return model.weight.detach()[0], s


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_lasso_regression(name):
    """KKT: the gradient is -alpha sign(x) where x is not zero, and no larger where it is."""
    x, _ = trained(*OPTIMIZERS[name])
    gradient = Z.T @ (Z @ x - Y) / len(Y)
    alive = x != 0
    assert 3 <= alive.sum() < 12
    torch.testing.assert_close(gradient[alive], -ALPHA * x[alive].sign(), atol=1e-3, rtol=1e-2)
    assert (gradient[~alive].abs() <= ALPHA * 1.01).all()
    peer = Lasso(alpha=ALPHA, fit_intercept=False, tol=1e-10).fit(Z.numpy(), Y.numpy())
    torch.testing.assert_close(x, torch.from_numpy(peer.coef_), atol=2e-3, rtol=1e-2)
    assert torch.equal(alive, torch.from_numpy(peer.coef_) != 0)


def test_the_subgradient_makes_hardly_a_zero():
    x, _ = trained(lambda p: torch.optim.SGD(p, lr=0.1), 2000, "subgradient")
    assert (x != 0).all()
    assert (x.abs() < 0.05).sum() >= 4


def test_the_smallest_go_at_the_end():
    _, s = trained(lambda p: torch.optim.SGD(p, lr=0.1), 200, sparsity=0.75)
    done = s.finish()
    assert done.zeros == 9
    assert done.masks["weight"][0].nonzero().flatten().tolist() == [0, 1, 2]


def test_an_unknown_optimizer_is_refused():
    model = nn.Linear(3, 2)
    method = steppe.methods.lasso(sparsity=0.5)
    with pytest.raises(SteppeError, match=r"NAdam.*subgradient"):
        steppe.sparsify(model, torch.optim.NAdam(model.parameters()), method, 2)


@pytest.mark.parametrize("given", [{"alpha": -1.0}, {"step": "newton"}])
def test_wrong_options(given):
    with pytest.raises(SteppeError):
        L1(**given)


def test_how_many_it_made_zero_by_itself_is_told():
    _, s = trained(lambda p: torch.optim.SGD(p, lr=0.1), 2000, sparsity=0.92)
    own = sum(int((w == 0).sum()) for w in s.weights.values())
    done = s.finish()
    assert done.zeros_before == own
    assert 0 < own < done.zeros == 11
