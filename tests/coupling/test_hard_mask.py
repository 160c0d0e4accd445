"""Hard masks that make up for what they zero; what they do without is in the engine's tests."""

import pytest
import torch
from torch import nn

import steppe
from steppe import SteppeError


def regression(layer, x, target, sparsity=0.5, compensate=True, steps=4, groups=1):
    model = nn.Sequential(layer).double()
    method = steppe.methods.mlprune(sparsity=sparsity, at=0.5, damping=1e-9, compensate=compensate)
    s = steppe.sparsify(model, torch.optim.SGD(model.parameters(), lr=0.0), method, steps)
    for _ in range(steps):
        s.step(lambda: (model(x) - target).square().sum((1, *range(2, target.ndim))).mean())
    return s.finish(), float((model(x) - target).detach().square().mean()), s


def least_squares(seed=0):
    """A layer at the optimum of noise with one size in all outputs: its Fisher matrix factors."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4000, 6, dtype=torch.float64, generator=generator)
    x = x @ torch.randn(6, 6, dtype=torch.float64, generator=generator)
    layer = nn.Linear(6, 5, bias=False).double()
    noise = torch.randn(4000, 5, dtype=torch.float64, generator=generator)
    return layer, x, (layer(x) + noise).detach()


def test_what_stays_makes_up_for_what_goes():
    layer, x, target = least_squares()
    before, start = layer.weight.detach().clone(), layer.state_dict()
    plain = nn.Linear(6, 5, bias=False).double()
    plain.load_state_dict(start)
    finished, loss, _ = regression(layer, x, target)
    _, worse, _ = regression(plain, x, target, compensate=False)
    assert loss < worse
    keep = finished.masks["0.weight"]
    assert (layer.weight[~keep] == 0).all()
    assert not torch.allclose(layer.weight[keep], before[keep])
    # the least squares solution on the same weights, each output by itself
    best = torch.zeros_like(before)
    for i in range(5):
        at = keep[i]
        best[i, at] = torch.linalg.lstsq(x[:, at], target[:, i : i + 1]).solution[:, 0]
    least = float((x @ best.T - target).square().mean())
    assert loss - least < 0.1 * (worse - least)


def test_what_is_gone_is_not_made_up_for_again():
    layer, x, target = least_squares()
    _, _, s = regression(layer, x, target)
    after = layer.weight.detach().clone()
    s.selector.compensate(s.weights, s.state["mask"])
    assert torch.equal(layer.weight, after)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv1d(3, 5, 2)],
    ids=["grouped", "depthwise", "one dimension"],
)
def test_convolutions(layer):
    size = (16, layer.in_channels, *[5] * (layer.weight.ndim - 2))
    x = torch.randn(size, dtype=torch.float64)
    noise = layer.double()(x).detach()
    target = noise + torch.randn_like(noise)
    finished, loss, _ = regression(layer, x, target, 0.3)
    keep = finished.masks["0.weight"]
    assert (layer.weight[~keep] == 0).all()
    assert torch.isfinite(torch.tensor(loss))


@pytest.mark.parametrize(
    "other",
    [
        {"score": "magnitude"},
        {"structure": "channel"},
        {"objective": "layer_reconstruction"},
    ],
    ids=str,
)
def test_only_with_a_score_that_knows_how(other):
    spec = {
        "score": "kfac",
        "budget": {"name": "pooled", "sparsity": 0.5},
        "schedule": "one_shot",
        "coupling": {"name": "hard_mask", "compensate": True},
    }
    with pytest.raises(SteppeError, match="compensates with a score that knows how"):
        steppe.Method(**(spec | other))
