"""What every budget of single units fulfils: exactly so many, whatever ties and order."""

import random

import pytest
import torch

from looped import looped
from steppe import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import Budget, UnitBudget

BUDGETS = [n for n in Budget.registry if issubclass(Budget.registry[n], UnitBudget)]
SHAPES = {"c": (6, 4, 3, 3), "a": (10, 24), "b": (1, 7), "d": (16, 5)}
LAYERS = {name: Layer(name, shape) for name, shape in SHAPES.items()}


def units(dtype=torch.float32, levels=None):
    drawn = {}
    for name, layer in LAYERS.items():
        values = torch.randn(layer.rows, layer.columns)
        if levels:  # many ties, among them exact zeros
            values = (values * levels).round() / levels
        drawn[name] = values.to(dtype)
    return drawn


def pruned(kept):
    return sum(int((~k).sum()) for k in kept.values())


@pytest.mark.parametrize("name", BUDGETS)
@looped(levels=[None, 2])
@looped(dtype=[torch.float32, torch.bfloat16, torch.float16])
def test_exactly_so_many(name, levels, dtype):
    budget = Budget.make({"name": name, "sparsity": 0.5})
    given = units(dtype, levels)
    before = {n: u.clone() for n, u in given.items()}
    total = sum(u.numel() for u in given.values())
    for prune in [0, 1, 2, total // 3, total // 2, total - 5, total - 1, total]:
        kept = budget.keep(given, LAYERS, prune)
        assert kept.keys() == given.keys()
        assert all(k.dtype == torch.bool and k.shape == given[n].shape for n, k in kept.items())
        assert pruned(kept) == prune
    assert all(torch.equal(given[n], before[n]) for n in given), "the units were changed"


@pytest.mark.parametrize("name", BUDGETS)
@looped(value=[0.0, 1.0])
def test_all_equal(name, value):
    budget = Budget.make({"name": name, "sparsity": 0.5})
    given = {n: torch.full_like(u, value) for n, u in units().items()}
    total = sum(u.numel() for u in given.values())
    for prune in (1, total // 2, total - 1):
        assert pruned(budget.keep(given, LAYERS, prune)) == prune


@pytest.mark.parametrize("name", BUDGETS)
@looped(levels=[None, 2])
def test_order_of_the_dict_does_not_matter(name, levels):
    budget = Budget.make({"name": name, "sparsity": 0.5})
    given = units(levels=levels)
    expected = budget.keep(given, LAYERS, 200)
    rng = random.Random(0)
    for _ in range(5):
        order = rng.sample(list(given), len(given))
        kept = budget.keep(
            {n: given[n] for n in order}, {n: LAYERS[n] for n in reversed(order)}, 200
        )
        assert all(torch.equal(kept[n], expected[n]) for n in given)


@pytest.mark.parametrize("name", BUDGETS)
def test_the_smaller_goes_first_within_a_row(name):
    budget = Budget.make({"name": name, "sparsity": 0.5})
    given = units()
    for layer, kept in budget.keep(given, LAYERS, 200).items():
        for values, stays in zip(given[layer].abs(), kept, strict=True):
            if stays.any() and not stays.all():
                assert values[stays].min() >= values[~stays].max()


@pytest.mark.parametrize("name", BUDGETS)
def test_signs_do_not_matter(name):
    budget = Budget.make({"name": name, "sparsity": 0.5})
    given = units()
    kept = budget.keep(given, LAYERS, 200)
    flipped = budget.keep({n: -u for n, u in given.items()}, LAYERS, 200)
    assert all(torch.equal(kept[n], flipped[n]) for n in given)


@pytest.mark.parametrize("name", BUDGETS)
@looped(sparsity=[-0.1, 1.0, 1.5, "0.5", float("nan")])
def test_impossible_sparsities(name, sparsity):
    with pytest.raises(SteppeError, match="sparsity"):
        Budget.make({"name": name, "sparsity": sparsity})
