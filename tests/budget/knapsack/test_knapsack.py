"""Knapsacks beside brute force, and a network's widths that truly cost what is allowed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steppe import SteppeError
from steppe.budget.knapsack.knapsack import (
    Widths,
    along,
    choose,
    choose_prefixes,
    kept_units,
    priced_widths,
    widths_of,
)
from steppe.core.group import Group, Slice

Lists = list[list[float]]


def brute(values: Lists, costs: Lists, capacity: float) -> float | None:
    """The best value of all combinations that fit."""
    feasible = [
        sum(v[c] for v, c in zip(values, chosen, strict=True))
        for chosen in itertools.product(*(range(len(v)) for v in values))
        if sum(p[c] for p, c in zip(costs, chosen, strict=True)) <= capacity
    ]
    return max(feasible, default=None)


@st.composite
def instances(draw: st.DrawFn) -> tuple[Lists, Lists, float]:
    """Few groups of few choices; more value to the right, any costs, also below 0."""
    values, costs = [], []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, 5))
        gains = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
        values.append([float(v) for v in itertools.accumulate(gains)])
        price = st.integers(-3, 12)
        costs.append([float(c) for c in draw(st.lists(price, min_size=count, max_size=count))])
    return values, costs, float(draw(st.integers(-5, 40)))


def result(values: Lists, chosen: list[int]) -> float:
    return sum(v[c] for v, c in zip(values, chosen, strict=True))


@settings(deadline=None)
@given(instances())
def test_choose_is_the_optimum(instance: tuple[Lists, Lists, float]) -> None:
    values, costs, capacity = instance
    chosen, best = choose(values, costs, capacity, 1.0), brute(values, costs, capacity)
    assert (chosen is None) == (best is None)
    if chosen is not None:
        assert result(costs, chosen) <= capacity
        assert result(values, chosen) == best


@settings(deadline=None)
@given(instances(), st.floats(0.3, 5.0))
def test_a_coarse_resolution_is_the_optimum_of_rounded_costs(
    instance: tuple[Lists, Lists, float], resolution: float
) -> None:
    values, costs, capacity = instance
    chosen = choose(values, costs, capacity, resolution)
    if chosen is None or chosen == [len(c) - 1 for c in costs]:
        return
    assert result(costs, chosen) <= capacity + 1e-6
    rounded = [[math.ceil((c - min(price)) / resolution - 1e-9) for c in price] for price in costs]
    room = math.floor((capacity - sum(min(price) for price in costs)) / resolution + 1e-9)
    assert result(values, chosen) == brute(values, rounded, room)


@settings(deadline=None)
@given(instances())
def test_more_capacity_is_never_worth_less(instance: tuple[Lists, Lists, float]) -> None:
    values, costs, capacity = instance
    worth = [
        result(values, chosen) if chosen is not None else -1.0
        for chosen in (choose(values, costs, capacity + more, 0.7) for more in range(12))
    ]
    assert worth == sorted(worth)


@settings(deadline=None)
@given(instances())
def test_prefixes(instance: tuple[Lists, Lists, float]) -> None:
    cumulated, costs, capacity = instance
    values = [[b - a for a, b in itertools.pairwise([0.0, *v])] for v in cumulated]
    counts = choose_prefixes(values, costs, capacity, 1.0)
    paid = [[0.0, *itertools.accumulate(max(c, 0.0) for c in price)] for price in costs]
    best = brute([[0.0, *v] for v in cumulated], paid, capacity)
    assert (counts is None) == (best is None)
    if counts is not None:
        assert sum(sum(v[:n]) for v, n in zip(values, counts, strict=True)) == best
        assert result(paid, counts) <= capacity


def test_everything_fits() -> None:
    assert choose([[0, 0], [1, 1]], [[0, 2], [0, 3]], 5, 1.0) == [1, 1]
    assert choose_prefixes([[0, 0], [0]], [[1, 1], [1]], 3, 1.0) == [2, 1]


def test_costs_in_decimals_that_fill_the_capacity_exactly() -> None:
    # 0.1 + 0.2 > 0.3 in binary, yet it is what the resolution says
    assert choose([[0, 5], [0, 5], [0, 1]], [[0, 0.1], [0, 0.2], [0, 0.3]], 0.3, 0.1) == [1, 1, 0]


def group(name: str, units: int, multiple: int = 1) -> Group:
    index = torch.arange(units)[:, None]
    return Group(name, (Slice(name, 0, index, "output"),), multiple)


def test_widths_keep_the_multiple_or_all() -> None:
    saliency = torch.tensor([3.0, -7.0, 1.0, 5.0, 2.0])
    assert widths_of(group("a", 5), saliency).units == (1, 2, 3, 4, 5)
    options = widths_of(group("a", 5, 2), saliency)
    assert options.units == (2, 4, 5)
    assert options.values.tolist() == [12, 17, 18]
    assert widths_of(group("a", 5, 2), saliency, chunk=3).units == (4, 5)
    assert widths_of(group("a", 5, 8), saliency).units == (5,)
    assert widths_of(group("a", 5), saliency, floor=0.5).units == (3, 4, 5)
    assert widths_of(group("a", 5, 2), saliency, floor=0.5).units == (4, 5)
    assert widths_of(group("a", 5), saliency, chunk=2, floor=0.9).units == (5,)
    assert widths_of(group("a", 5), saliency, chunk=8).units == (5,)


def test_what_is_worth_nothing_is_not_wanted_unless_all_fits() -> None:
    saliency = torch.tensor([0.0, 2.0, 0.0, 1.0, 3.0, 0.0])
    assert widths_of(group("a", 6), saliency).units == (1, 2, 3)
    assert widths_of(group("a", 6, 2), saliency).units == (2, 4)
    nothing = widths_of(group("a", 6, 2), torch.zeros(6))
    assert nothing.units == (2,)
    cost = Chain({"a": 6})
    assert priced_widths([nothing], cost, 78, choose, rounds=2, steps=10) == {"a": 6}
    assert priced_widths([nothing], cost, 77, choose, rounds=2, steps=10) == {"a": 2}


def test_the_largest_stay_and_of_equals_the_earliest() -> None:
    kept = kept_units({"a": torch.tensor([1.0, 2.0, 1.0, -3.0])}, {"a": 3})
    assert kept["a"].tolist() == [True, True, False, True]


class Chain:
    """Layers in a row: each costs its inputs times its outputs; the ends are 3 and 10 wide."""

    unit = "products"
    tolerance = 0.01

    def __init__(self, full: Mapping[str, int], slow: int | None = None) -> None:
        self.full, self.slow, self.calls = dict(full), slow, 0

    def total(self, kept: Mapping[str, int]) -> float:
        self.calls += 1
        widths = [3, *(kept.get(name, full) for name, full in self.full.items()), 10]
        total = sum(a * b for a, b in itertools.pairwise(widths))
        return float(total + 1000 * (self.slow in widths))


def chain(units: int = 12, names: str = "abcd", slow: int | None = None):
    torch.manual_seed(0)
    groups = [group(name, units) for name in names]
    options = [widths_of(g, torch.rand(units)) for g in groups]
    return options, Chain(dict.fromkeys(names, units), slow)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.25, 0.18])
def test_fit_is_near_the_true_optimum(share: float) -> None:
    options, cost = chain(5, "abc")
    allowed = share * cost.total({})
    kept = priced_widths(options, cost, allowed, choose, rounds=8, steps=4000)
    assert cost.total(kept) <= allowed

    def value(widths: Mapping[str, int]) -> float:
        return sum(float(o.values[o.units.index(widths[o.group])]) for o in options)

    everything = [
        dict(zip("abc", widths, strict=True)) for widths in itertools.product(range(1, 6), repeat=3)
    ]
    best = max(value(w) for w in everything if cost.total(w) <= allowed)
    assert value(kept) >= 0.9 * best


@pytest.mark.parametrize("share", [0.95, 0.5, 0.1])
def test_nothing_more_would_fit(share: float) -> None:
    options, cost = chain()
    allowed = share * cost.total({})
    kept = priced_widths(options, cost, allowed, choose, rounds=5, steps=500)
    assert cost.total(kept) <= allowed
    for o in options:
        if kept[o.group] < o.units[-1]:
            assert cost.total({**kept, o.group: kept[o.group] + 1}) > allowed


def test_all_of_it_and_too_little() -> None:
    options, cost = chain()
    assert priced_widths(
        options, cost, cost.total({}), choose, rounds=5, steps=500
    ) == dict.fromkeys("abcd", 12)
    least = cost.total(dict.fromkeys("abcd", 1))
    assert priced_widths(options, cost, least, choose, rounds=5, steps=500) == dict.fromkeys(
        "abcd", 1
    )
    for allowed in (least - 0.5, 0.0, -3.0):
        with pytest.raises(SteppeError, match=f"{least:.6g} with the fewest"):
            priced_widths(options, cost, allowed, choose, rounds=5, steps=500)


def test_a_slow_width_is_avoided() -> None:
    options, cost = chain(slow=6)
    kept = priced_widths(
        options, cost, 0.4 * Chain(cost.full).total({}), choose, rounds=8, steps=4000
    )
    assert 6 not in kept.values()


def test_along_uses_what_the_cost_knows_itself() -> None:
    _, cost = chain()
    assert along(cost, {"a": 4}, "a", [4, 5]) == [0.0, 15.0]

    class Quick(Chain):
        def along(self, kept, group, widths):
            return [float(w) for w in widths]

    assert along(Quick({"a": 4}), {}, "a", [1, 2]) == [1.0, 2.0]


def test_one_width_only() -> None:
    fixed = widths_of(group("a", 4, 4), torch.ones(4))
    assert isinstance(fixed, Widths)
    cost = Chain({"a": 4})
    assert priced_widths([fixed], cost, 52, choose, rounds=2, steps=10) == {"a": 4}
    with pytest.raises(SteppeError):
        priced_widths([fixed], cost, 51, choose, rounds=2, steps=10)
