"""Learned thresholds: their gradient, their shrinkage, what weight decay makes of them."""

import pytest
import torch
from torch import nn

import steppe
from steppe import SteppeError
from steppe.coupling.soft_threshold import SoftThreshold


def test_join_is_the_papers_formula():
    v, s = torch.randn(50), torch.tensor(-0.5)
    x = SoftThreshold().join(v, s)
    t = torch.sigmoid(s)
    torch.testing.assert_close(x, v.sign() * torch.relu(v.abs() - t))
    assert ((v - x).abs() <= t + 1e-7).all()
    zeros = x == 0
    assert zeros.any()
    assert not torch.signbit(x[zeros]).any()


def test_gradient_of_the_threshold():
    """- sigmoid'(s) sum of sign(v) g over what is not zero; and by finite differences."""
    v = torch.randn(40, dtype=torch.float64)
    s = torch.tensor(-0.7, dtype=torch.float64, requires_grad=True)
    g = torch.randn(40, dtype=torch.float64)
    coupling = SoftThreshold()
    (coupling.join(v, s) * g).sum().backward()
    t = torch.sigmoid(s.detach())
    alive = v.abs() > t
    torch.testing.assert_close(s.grad, -t * (1 - t) * (v.sign() * g)[alive].sum())
    step = 1e-6
    values = [(coupling.join(v, s.detach() + d) * g).sum() for d in (step, -step)]
    torch.testing.assert_close(s.grad, (values[0] - values[1]) / (2 * step), rtol=1e-5, atol=1e-8)


def test_gradient_of_the_weights_is_that_of_what_is_not_zero():
    v = torch.tensor([0.9, -0.9, 0.1], requires_grad=True)
    SoftThreshold().join(v, torch.tensor(0.0)).sum().backward()
    assert v.grad.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("start", [-3200.0, -10.0, -2.0])
def test_nothing_changes_at_first(start):
    coupling, w = SoftThreshold(start=start), torch.tensor([0.0, 0.3, -0.01, 2.0])
    torch.testing.assert_close(coupling.join(*coupling.split(w)), w, atol=1e-7, rtol=1e-6)


def test_a_threshold_far_down_is_moved_by_its_weight_decay_alone():
    s = torch.tensor(-3200.0, requires_grad=True)
    SoftThreshold().join(torch.ones(3), s).sum().backward()
    assert s.grad == 0


def trained(decay):
    torch.manual_seed(0)
    model = nn.Linear(20, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=decay)
    method = steppe.methods.soft_threshold(sparsity=0.1, start=-5.0)
    s = steppe.sparsify(model, optimizer, method, 300)
    x = torch.randn(64, 20)
    y = x @ torch.randn(20, 10)
    for _ in range(300):
        s.step(lambda: (model(x) - y).square().mean())
    return s.finish()


def test_weight_decay_decides_how_many_are_zero():
    few, many = trained(1e-4), trained(0.1)
    assert few.zeros + 10 <= many.zeros
    # at least what was asked for goes
    assert few.zeros >= 0.1 * few.total


def test_wrong_start():
    with pytest.raises(SteppeError):
        SoftThreshold(start=float("-inf"))
