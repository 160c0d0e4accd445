"""The model's budget as counts per layer, and a block's part of it."""

from __future__ import annotations

import pytest
import torch

from steppe import SteppeError, methods
from steppe.core.layer import Layer
from steppe.core.protocols import Budget, UnitBudget
from steppe.engine.blockwise.allocation import counts_of, for_block, sizes_of

LAYERS = [
    Layer(f"blocks.{i}.{name}", shape, stacked=len(shape) == 3, block=f"blocks.{i}")
    for i in range(3)
    for name, shape in (("a", (12, 16)), ("b", (8, 24)), ("experts", (3, 8, 16)))
]
TOTAL = sum(x.numel for x in LAYERS)
PROFILE = {x.name: 0.01 * (i + 1) for i, x in enumerate(LAYERS)}
UNITS = [n for n in Budget.registry if issubclass(Budget.registry[n], UnitBudget)]
LAYERWISE = [n for n in UNITS if Budget.registry[n].layerwise]


@pytest.mark.parametrize("budget", LAYERWISE)
@pytest.mark.parametrize("sparsity", [0.0, 0.123, 0.5, 0.9])
def test_counts_add_up_exactly(budget: str, sparsity: float) -> None:
    counts = counts_of(methods.wanda(sparsity=sparsity, budget=budget), LAYERS, PROFILE)
    assert sum(counts.values()) == round(sparsity * TOTAL)
    assert counts.keys() == {x.name for x in LAYERS}
    assert all(0 <= counts[x.name] <= x.numel for x in LAYERS)


@pytest.mark.parametrize("budget", [n for n in UNITS if n not in LAYERWISE])
def test_one_threshold_for_all_needs_all(budget: str) -> None:
    with pytest.raises(SteppeError, match=f"budget {budget}, one threshold"):
        counts_of(methods.wanda(sparsity=0.5, budget=budget), LAYERS, {})


def test_the_shape_may_fix_the_counts() -> None:
    method = methods.wanda(structure="4:8")
    assert counts_of(method, LAYERS, {}) == {x.name: x.numel // 2 for x in LAYERS}
    assert for_block(method, {}, LAYERS[:3]) is method


def test_units_of_blocks_of_weights() -> None:
    method = methods.magnitude(
        sparsity=0.5, structure="block:4x4", objective="layer_reconstruction", budget="uniform"
    )
    assert sizes_of(method, LAYERS[:2]) == {"blocks.0.a": 12, "blocks.0.b": 12}
    assert sum(counts_of(method, LAYERS[:2], {}).values()) == 12


def test_a_block_gets_its_quotas() -> None:
    method = methods.wanda(sparsity=0.5, budget="erk")
    counts = counts_of(method, LAYERS, {})
    mine = LAYERS[3:6]
    own = for_block(method, counts, mine)
    sizes = {x.name: x.numel for x in mine}
    shapes = {x.name: x for x in mine}
    total = sum(counts[n] for n in sizes)
    assert own.sparsity == pytest.approx(total / sum(sizes.values()))
    assert own.budget.counts(shapes, sizes, total, {}) == {n: counts[n] for n in sizes}
    half = own.budget.counts(shapes, sizes, total // 2, {})
    assert sum(half.values()) == total // 2, "a schedule on its way"
    assert all(abs(half[n] - counts[n] / 2) <= 1 for n in sizes)
    units = {n: torch.rand(x.rows, x.columns) for n, x in shapes.items()}
    kept = own.budget.keep(units, shapes, total)
    assert {n: int((~k).sum()) for n, k in kept.items()} == {n: counts[n] for n in sizes}


def test_it_ranks_as_the_budget_does() -> None:
    method = methods.wanda(sparsity=0.5, budget="per_row")
    own = for_block(method, counts_of(method, LAYERS, {}), LAYERS[:2])
    assert set((~own.budget.within(torch.rand(12, 16), 96)).sum(1).tolist()) == {8}


def test_a_block_keeps_something() -> None:
    method = methods.wanda(sparsity=0.5)
    counts = {x.name: x.numel for x in LAYERS[:3]}
    with pytest.raises(SteppeError, match=r"blocks\.0 with a share of 100 %"):
        for_block(method, counts, LAYERS[:3])
