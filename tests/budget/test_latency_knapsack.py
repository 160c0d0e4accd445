"""HALP's budget: chunks of channels (what it shares with SMCP's is tested there)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from steppe import SteppeError
from steppe.budget.latency_knapsack import LatencyKnapsack, solve_chunks
from steppe.core.group import Group, Slice


class Sum:
    """Every unit costs the same, but some widths are slower than wider ones."""

    unit = "ms"
    tolerance = 0.01

    def __init__(self, full: Mapping[str, int], slow: Mapping[int, float]) -> None:
        self.full, self.slow = dict(full), dict(slow)

    def total(self, kept: Mapping[str, int]) -> float:
        widths = [kept.get(name, full) for name, full in self.full.items()]
        return float(sum(width + self.slow.get(width, 0.0) for width in widths))


def group(name: str, units: int, multiple: int = 1) -> Group:
    return Group(name, (Slice(name, 0, torch.arange(units)[:, None], "output"),), multiple)


@pytest.mark.parametrize(("chunk", "multiple", "step"), [(4, 1, 4), (3, 2, 4), (1, 4, 4)])
def test_whole_chunks_stay_and_the_first_always(chunk: int, multiple: int, step: int) -> None:
    sizes = {"a": 14, "b": 9}
    units = {n: torch.linspace(1, 2, s) * (1 if n == "a" else 0.01) for n, s in sizes.items()}
    groups = [group(n, s, multiple) for n, s in sizes.items()]
    budget = LatencyKnapsack(sparsity=0.5, chunk=chunk)
    kept = budget.within_cost(units, groups, Sum(sizes, {}), 16.0)
    assert {n: int(k.sum()) for n, k in kept.items()} == {"a": 12, "b": step}
    assert kept["a"].tolist() == [False] * 2 + [True] * 12


def test_with_one_price_for_all_the_largest_chunks_stay() -> None:
    torch.manual_seed(0)
    units = {n: torch.rand(10) for n in "abc"}
    cost = Sum(dict.fromkeys("abc", 10), {})
    kept = LatencyKnapsack(sparsity=0.5).within_cost(units, [group(n, 10) for n in "abc"], cost, 17)
    largest = torch.cat([*units.values()]).topk(17).values.sum()
    assert sum(units[n][k].sum() for n, k in kept.items()) == pytest.approx(float(largest))


def test_a_chunk_that_makes_it_faster_is_free_and_pays_for_nothing() -> None:
    # the second chunk lowers the cost from 9 to 4; all the same it gives no room to others
    prices = [np.array([0.0, 9.0, 4.0]), np.array([0.0, 5.0])]
    values = [np.array([1.0, 2.0, 3.0]), np.array([1.0, 9.0])]
    assert solve_chunks(values, prices, 9.0, 1.0) == [0, 1]
    assert solve_chunks(values, prices, 13.9, 0.1) == [0, 1]
    assert solve_chunks(values, prices, 14.0, 1.0) == [2, 1]
    assert solve_chunks(values, prices, -1.0, 1.0) is None


def test_a_chunk_below_one() -> None:
    with pytest.raises(SteppeError, match="chunk 0"):
        LatencyKnapsack(sparsity=0.5, chunk=0)
