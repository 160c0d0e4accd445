"""Wanda's input norms, gathered while training."""

import pytest
import torch
from torch import nn

from steppe.core.prunable import prunable
from steppe.score.wanda import ActivationSquare, Wanda


def gather(model, *batches):
    statistic = ActivationSquare(decay=0.5)
    layers, weights = prunable(model)
    modules = dict(model.named_modules())
    statistic.prepare({x.name: (x, modules[x.name.rpartition(".")[0]]) for x in layers})
    for x in batches:
        statistic.active(True)
        model(x)
        statistic.active(False)
        statistic.observe({n: w.detach() for n, w in weights.items()}, {})
    return statistic.values


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)])
def test_linear(shape):
    x = torch.randn(shape)
    (value,) = gather(nn.Sequential(nn.Linear(5, 4)), x).values()
    expected = x.reshape(-1, 5).square().mean(0)
    torch.testing.assert_close(value, expected[None])
    weight = torch.randn(4, 5)
    scores = Wanda().score(weight, {"activation_square": value}, "w")
    norms = x.reshape(-1, 5).norm(dim=0) / (x.numel() / 5) ** 0.5
    torch.testing.assert_close(scores.abs(), weight.abs() * norms)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions_see_their_own_groups_inputs(groups):
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=groups))
    x = torch.randn(5, 4, 6, 6) * torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None, None]
    (value,) = gather(model, x).values()
    per_channel = x.square().mean((0, 2, 3))
    for output in range(8):
        first = output // (8 // groups) * (4 // groups)
        for i in range(4 // groups):
            torch.testing.assert_close(value[output, i].squeeze(), per_channel[first + i])
    assert (value * torch.ones(model[0].weight.shape)).shape == model[0].weight.shape


def test_a_running_mean():
    a, b = torch.ones(2, 3), 3 * torch.ones(2, 3)
    (value,) = gather(nn.Sequential(nn.Linear(3, 2)), a, b).values()
    torch.testing.assert_close(value, torch.full((1, 3), 0.5 * 1 + 0.5 * 9))
