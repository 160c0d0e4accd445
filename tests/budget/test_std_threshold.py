"""Thresholds in standard deviations beside a search for their one multiple."""

import pytest
import torch

from steppe.budget.std_threshold import StdThreshold
from steppe.core.layer import Layer
from steppe.core.selection import keep_largest

SHAPES = {"a": (4, 50), "b": (10, 30), "c": (7, 7)}
LAYERS = {n: Layer(n, shape) for n, shape in SHAPES.items()}
TOTAL = 200 + 300 + 49


def drawn():
    spread = {"a": 1.0, "b": 30.0, "c": 0.01}
    heavy = {"a": 1.0, "b": 3.0, "c": 1.0}
    return {
        n: spread[n] * v.sign() * v.abs() ** heavy[n]
        for n, v in ((n, torch.randn(shape)) for n, shape in SHAPES.items())
    }


def keep(units, prune):
    return StdThreshold(sparsity=0.5).keep(units, LAYERS, prune)


@pytest.mark.parametrize("prune", [1, 100, 274, 500, 548])
def test_one_multiple_of_the_deviation_bisected(prune):
    units = drawn()

    def below(q):
        return {n: u.double().abs() < q * u.double().std(correction=0) for n, u in units.items()}

    low, high = 0.0, 1e3
    for _ in range(200):
        q = (low + high) / 2
        if sum(int(b.sum()) for b in below(q).values()) < prune:
            low = q
        else:
            high = q
    pruned, kept = below(high), keep(units, prune)
    assert sum(int((~k).sum()) for k in kept.values()) == prune
    assert all(torch.equal(kept[n], ~pruned[n]) for n in units)


@pytest.mark.parametrize("prune", [1, 100, 274, 500, 548])
def test_it_is_magnitude_within_each_layer(prune):
    units = drawn()
    for name, kept in keep(units, prune).items():
        alone = keep_largest({name: units[name]}, int((~kept).sum()))[name]
        assert torch.equal(kept, alone)


def test_scaling_a_layer_changes_nothing():
    units = drawn()
    scale = {"a": 2.0**-20, "b": -4.0, "c": 2.0**30}
    kept, other = keep(units, 300), keep({n: scale[n] * u for n, u in units.items()}, 300)
    assert all(torch.equal(kept[n], other[n]) for n in units)


def test_what_is_gone_is_not_in_the_deviation():
    units = drawn()
    first = keep(units, 200)
    left = {n: units[n] * first[n] for n in units}
    again = keep(left, 200)
    assert all(torch.equal(first[n], again[n]) for n in units)
    # further on, layers are compared by what remains of them
    width = {n: float(left[n][first[n]].double().std(correction=0)) for n in units}
    expected = keep_largest({n: left[n].double() / width[n] for n in units}, 400)
    assert all(torch.equal(k, expected[n]) for n, k in keep(left, 400).items())


def test_layers_without_spread_go_last():
    units = {"a": torch.randn(4, 50), "b": torch.zeros(10, 30), "c": torch.full((7, 7), 1e-6)}
    units["b"][0, 0] = 1.0
    kept = keep(units, 299 + 200)
    assert {n: int(k.sum()) for n, k in kept.items()} == {"a": 0, "b": 1, "c": 49}
