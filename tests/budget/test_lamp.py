"""LAMP beside its equation."""

import torch

from steppe.budget.lamp import Lamp
from steppe.core.layer import Layer


def test_equation_2():
    units = {"a": torch.randn(4, 5), "b": 10 * torch.randn(3, 6)}
    layers = {n: Layer(n, tuple(u.shape)) for n, u in units.items()}
    scores = {}
    for name, u in units.items():
        flat = u.flatten().double()
        for i, value in enumerate(flat):
            at_least = flat[flat.abs() >= value.abs()]
            scores[name, i] = float(value**2 / (at_least**2).sum())
    for prune in (1, 10, 30, 36):
        kept = Lamp(sparsity=0.5).keep(units, layers, prune)
        lost = sorted(scores, key=scores.__getitem__)[:prune]
        expected = {n: torch.ones(u.numel(), dtype=torch.bool) for n, u in units.items()}
        for name, i in lost:
            expected[name][i] = False
        assert all(torch.equal(kept[n].flatten(), expected[n]) for n in units)


def test_no_layer_is_lost_before_the_last_units():
    """The largest unit of each layer scores 1, whatever the layer's scale."""
    units = {"small": 1e-6 * torch.rand(1, 50), "large": torch.rand(1, 50)}
    layers = {n: Layer(n, (1, 50)) for n in units}
    kept = Lamp(sparsity=0.9).keep(units, layers, 98)
    assert {n: int(k.sum()) for n, k in kept.items()} == {"small": 1, "large": 1}
