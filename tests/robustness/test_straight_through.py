"""Steps get the gradient of what goes in, values stay; the end of a network is followed back."""

import pytest
import torch
from torch.nn import functional as F

from steppe.robustness.straight_through import Followed


@torch.no_grad()
def without_gradient(x):
    return 2 * x


STEPS = {
    "round": (lambda x: (x * 255).round() / 255, 1.0),
    "function": (lambda x: torch.floor(x * 4) / 4, 1.0),
    "in place": (lambda x: (x * 3).ceil_(), 3.0),
    "cast": (lambda x: (x * 255).to(torch.uint8).float() / 255, 1.0),
    "byte": (lambda x: (x * 255).byte() / 255, 1.0),
    "remainder": (lambda x: x - x % 0.1, 1.0),
    "floor division": (lambda x: (x * 10).int() // 2, 5.0),
    "rounding mode": (lambda x: torch.div(x, 0.25, rounding_mode="floor"), 4.0),
    "detach": (lambda x: x.detach() * 2, 2.0),
    "data": (lambda x: x.data * 3, 3.0),
    "no_grad": (without_gradient, 2.0),
    "sign": (lambda x: (x - 0.5).sign(), 1.0),
    "smooth": (lambda x: 3 * x, 3.0),
}


@pytest.mark.parametrize("name", STEPS)
def test_values_stay_and_gradients_pass(name):
    step, slope = STEPS[name]
    x = torch.tensor([0.3137, 0.7001], requires_grad=True)
    with Followed(through=True):
        passed = step(x)
    torch.testing.assert_close(passed.detach(), step(x).detach().to(passed.dtype))
    (gradient,) = torch.autograd.grad(passed.sum(), x)
    torch.testing.assert_close(gradient, torch.full((2,), slope))
    assert torch.is_grad_enabled()


def test_without_through_gradients_are_the_networks_own():
    x = torch.tensor([0.3], requires_grad=True)
    with Followed():
        y = x.round()
    assert torch.autograd.grad(y, x)[0].item() == 0.0


ENDS = {
    "softmax": lambda z: z.softmax(1),
    "function": lambda z: F.softmax(z, dim=1),
    "log_softmax": lambda z: torch.log_softmax(z, 1),
    "one_hot": lambda z: F.one_hot(z.argmax(1), 3),
    "as floats": lambda z: F.one_hot(z.argmax(1), 3).float(),
    "sigmoid": lambda z: torch.sigmoid(z).view(2, 3),
    "rounded": lambda z: z.softmax(1).round(),
    "scores": lambda z: z,
    "another softmax": lambda z: z.softmax(1) * 0 + z,
}


@pytest.mark.parametrize("name", ENDS)
def test_the_scores_before_the_end(name):
    z = torch.tensor([[900.0, 0.0, -3.0], [1.0, 2.0, 3.0]])
    with Followed() as followed:
        output = ENDS[name](z * 1)
    assert torch.equal(followed.scores(output), z)
