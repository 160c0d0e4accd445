"""ERK beside RigL's appendix."""

import pytest
import torch

from steppe.budget.erk import Erk
from steppe.core.layer import Layer


def test_densities():
    shapes = {"conv": (64, 32, 3, 3), "wide": (256, 512), "head": (10, 256)}
    layers = {n: Layer(n, s) for n, s in shapes.items()}
    units = {n: torch.rand(x.rows, x.columns) for n, x in layers.items()}
    total = sum(u.numel() for u in units.values())
    prune = round(0.9 * total)
    kept = Erk(sparsity=0.9).keep(units, layers, prune)
    density = {n: float(k.float().mean()) for n, k in kept.items()}
    raw = {n: sum(s) / torch.Size(s).numel() for n, s in shapes.items()}
    sizes = {n: u.numel() for n, u in units.items()}
    # the thin head would need more than all it has, so it is dense and the others share the rest
    assert raw["head"] * (total - prune) / sum(raw[n] * sizes[n] for n in shapes) > 1
    others = ("conv", "wide")
    scale = (total - prune - sizes["head"]) / sum(raw[n] * sizes[n] for n in others)
    assert density["head"] == 1.0
    for name in others:
        assert density[name] == pytest.approx(scale * raw[name], abs=1.5 / sizes[name])
