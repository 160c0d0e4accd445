"""Landscapes of quadratics, and directions by filter."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.robustness.landscape import directions, landscape

_SPEC = importlib.util.spec_from_file_location(
    "quadratics", Path(__file__).parent / "test_sharpness.py"
)
quadratics = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(quadratics)
BATCHES, mean = quadratics.BATCHES, quadratics.mean


def test_a_quadratic_on_a_grid():
    a, b = quadratics.problem(5, 2)
    w = np.random.default_rng(0).standard_normal(5)
    model = quadratics.Quadratic(a, b, w)
    before = model.w.detach().clone()
    d = np.random.default_rng(1).standard_normal((2, 5))
    along = [{"w": torch.tensor(v)} for v in d]
    places, losses = landscape(model, mean, BATCHES, along, radius=0.7, points=5)

    def loss(v):
        return 0.5 * v @ a @ v + b @ v

    expected = [[loss(w + s * d[0] + t * d[1]) for t in places.numpy()] for s in places.numpy()]
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-9, atol=1e-9)
    one = landscape(model, mean, BATCHES, along[:1], radius=0.7, points=5)[1]
    np.testing.assert_allclose(one.numpy(), np.array(expected)[:, 2], rtol=1e-9, atol=1e-9)
    assert torch.equal(model.w, before)


def test_every_filter_moves_by_its_length():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    masks = {"0.weight": torch.rand_like(net[0].weight) > 0.6}
    with torch.no_grad():
        net[0].weight *= masks["0.weight"]
        net[3].weight[1] = 0.0  # a filter that is gone does not move
    one, two = directions(net, 2, masks=masks, seed=5)
    for name, p in net.named_parameters():
        if p.ndim > 1:
            lengths = p.detach().flatten(1).norm(dim=1)
            torch.testing.assert_close(one[name].flatten(1).norm(dim=1), lengths)
        else:
            assert not one[name].any()
    assert not one["0.weight"][~masks["0.weight"]].any()
    assert not torch.equal(one["0.weight"], two["0.weight"])
    again = directions(net, 1, masks=masks, seed=5)[0]
    assert all(torch.equal(one[n], again[n]) for n in one)


def test_what_cannot_be_drawn():
    model = quadratics.Quadratic(np.eye(2), np.zeros(2))
    fits = {"w": torch.ones(2)}
    for along, more in (([], {}), ([fits], {"points": 4}), ([fits], {"radius": 0.0})):
        with pytest.raises(SteppeError, match="one or two directions"):
            landscape(model, mean, BATCHES, along, **more)
    with pytest.raises(SteppeError, match="another shape, for w"):
        landscape(model, mean, BATCHES, [{"w": torch.ones(3)}])
    broken = quadratics.Quadratic(np.eye(2) * np.nan, np.zeros(2))
    with pytest.raises(SteppeError, match="loss at the weights must be finite"):
        landscape(broken, mean, BATCHES, [fits])
