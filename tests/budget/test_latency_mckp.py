"""SMCP's budget: the best width for every group, with the cost as it truly is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
import torch

from steppe import SteppeError
from steppe.core.group import Group, Slice
from steppe.core.protocols import Budget

NAMES = ["latency_mckp", "latency_knapsack"]


class Chain:
    """Layers in a row, from 3 channels to 17; one width may be slow."""

    unit = "ms"
    tolerance = 0.01

    def __init__(self, full: Mapping[str, int], slow: int | None = None) -> None:
        self.full, self.slow = dict(full), slow

    def total(self, kept: Mapping[str, int]) -> float:
        widths = [3, *(kept.get(name, full) for name, full in self.full.items()), 17]
        total = sum(a * b for a, b in itertools.pairwise(widths))
        return total + 1000.0 * (self.slow in widths)


def group(name: str, units: int, multiple: int = 1) -> Group:
    return Group(name, (Slice(name, 0, torch.arange(units)[:, None], "output"),), multiple)


def problem(multiple: int = 1) -> tuple[dict[str, torch.Tensor], list[Group], Chain]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"a": 12, "b": 7, "c": 16}
    units = {n: torch.randn(s, generator=generator) for n, s in sizes.items()}
    return units, [group(n, s, multiple) for n, s in sizes.items()], Chain(sizes)


def make(name: str, **fields: object) -> Budget:
    return Budget.make({"name": name, "sparsity": 0.5, **fields})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.3])
def test_it_costs_no_more_and_keeps_the_largest(name: str, multiple: int, share: float) -> None:
    units, groups, cost = problem(multiple)
    allowed = share * cost.total({})
    kept = make(name).within_cost(units, groups, cost, allowed)
    counts = {n: int(k.sum()) for n, k in kept.items()}
    assert cost.total(counts) <= allowed
    for g in groups:
        size, mask = units[g.name].abs(), kept[g.name]
        assert mask.dtype == torch.bool
        assert mask.shape == size.shape
        assert counts[g.name] >= g.least
        assert counts[g.name] % multiple == 0 or counts[g.name] == g.units
        if not mask.all():
            assert size[mask].min() >= size[~mask].max()
    if share == 1.0:
        assert all(k.all() for k in kept.values())


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_more_than_one_threshold_does(name: str) -> None:
    units, groups, cost = problem()
    allowed = 0.4 * cost.total({})

    def value(kept: Mapping[str, torch.Tensor]) -> float:
        return sum(float(units[n].abs()[k].sum()) for n, k in kept.items())

    pooled = make("pooled").within_cost(units, groups, cost, allowed)
    assert value(make(name).within_cost(units, groups, cost, allowed)) >= value(pooled)


@pytest.mark.parametrize("name", NAMES)
def test_too_little(name: str) -> None:
    units, groups, cost = problem()
    with pytest.raises(SteppeError, match="fewest channels"):
        make(name).within_cost(units, groups, cost, 13.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_floor_for_every_group(name: str) -> None:
    units, groups, cost = problem()
    units["a"] *= 1e-3
    allowed = 0.5 * cost.total({})
    assert int(make(name).within_cost(units, groups, cost, allowed)["a"].sum()) < 6
    kept = make(name, floor=0.5).within_cost(units, groups, cost, allowed)
    assert [int(k.sum()) >= len(k) / 2 for k in kept.values()] == [True] * 3
    with pytest.raises(SteppeError, match=r"floor in \[0, 1\)"):
        make(name, floor=1.0)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_zeroed_stays_so(name: str) -> None:
    units, groups, cost = problem()
    units["b"][2:] = 0.0
    kept = make(name).within_cost(units, groups, cost, 0.8 * cost.total({}))
    assert not kept["b"][2:].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["rounds", "steps"])
def test_fields_out_of_range(name: str, field: str) -> None:
    with pytest.raises(SteppeError, match="1 or more"):
        make(name, **{field: 0})


def test_a_slower_narrow_width_is_avoided() -> None:
    units, groups, cost = problem()
    allowed = 0.4 * cost.total({})
    cost.slow = int(make("latency_mckp").within_cost(units, groups, cost, allowed)["a"].sum())
    kept = make("latency_mckp").within_cost(units, groups, cost, allowed)
    assert cost.slow not in [int(k.sum()) for k in kept.values()]
