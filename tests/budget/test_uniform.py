"""The same fraction in every layer."""

import pytest
import torch

from steppe import SteppeError
from steppe.budget.uniform import Uniform
from steppe.core.cost import Units
from steppe.core.group import Group, Slice
from steppe.core.layer import Layer
from steppe.core.protocols import Budget

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


def test_every_group_keeps_the_same_share_of_its_channels():
    sizes = {"a": 20, "b": 64, "c": 8}
    groups = [
        Group(n, (Slice(n, 0, torch.arange(k).view(k, 1), "output"),)) for n, k in sizes.items()
    ]
    units = {n: torch.rand(k) for n, k in sizes.items()}
    kept = Uniform(sparsity=0.75).within_cost(units, groups, Units(groups), 23)
    assert {n: int(k.sum()) for n, k in kept.items()} == {"a": 5, "b": 16, "c": 2}
    for name, alive in kept.items():
        assert units[name][alive].min() > units[name][~alive].max()
    with pytest.raises(SteppeError, match="fewest channels"):
        Uniform(sparsity=0.75).within_cost(units, groups, Units(groups), 2)
