"""The same fraction in every layer."""

import pytest
import torch

from steppe.core.layer import Layer
from steppe.core.part import Budget

SHAPES = {"a": (7, 11), "b": (3, 5), "c": (20, 30)}
LAYERS = {n: Layer(n, s) for n, s in SHAPES.items()}


@pytest.mark.parametrize("name", ["uniform", "per_row"])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.77, 0.95])
def test_to_within_one_unit(name, sparsity):
    units = {n: 10.0**i * torch.randn(s) for i, (n, s) in enumerate(SHAPES.items())}
    prune = round(sparsity * 692)
    kept = Budget.make({"name": name, "sparsity": sparsity}).keep(units, LAYERS, prune)
    for layer, k in kept.items():
        assert abs(int((~k).sum()) - sparsity * k.numel()) <= 1 + abs(prune - sparsity * 692)
        if name == "per_row":
            per_row = k.sum(1)
            assert int(per_row.max() - per_row.min()) <= 1, layer
