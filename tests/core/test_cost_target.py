"""The least salient channels go until the cost fits: beside brute force, and what must hold."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steppe.core.cost import Units
from steppe.core.cost_target import chunks_of, fill, meet_cost
from steppe.core.errors import SteppeError
from steppe.core.group import Group, Slice


def group(name: str, units: int, multiple: int = 1) -> Group:
    return Group(name, (Slice(name, 0, torch.arange(units).view(-1, 1), "output"),), multiple)


class Products:
    """A chain of layers: the cost of each is the product of its two widths."""

    unit, tolerance = "parameters", 0.01

    def __init__(self, groups: list[Group]) -> None:
        self.groups = groups

    def total(self, kept: dict[str, int]) -> float:
        widths = [3, *(kept.get(g.name, g.units) for g in self.groups), 10]
        return float(sum(a * b for a, b in pairwise(widths)))


@st.composite
def cases(draw):
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    groups = [group(f"g{i}", n, draw(st.integers(1, 3))) for i, n in enumerate(sizes)]
    seed = draw(st.integers(0, 999))
    generator = torch.Generator().manual_seed(seed)
    units = {g.name: torch.rand(g.units, generator=generator) for g in groups}
    return groups, units


@settings(deadline=None, max_examples=60)
@given(cases(), st.floats(0.0, 0.95))
def test_it_fits_keeps_multiples_and_never_the_lesser_one(case, share) -> None:
    groups, units = case
    cost = Products(groups)
    fewest = cost.total({g.name: g.least for g in groups})
    allowed = (1 - share) * cost.total({})
    if fewest > allowed:
        with pytest.raises(SteppeError, match=r"leave room.*of at most 0[.\d]*, a smaller"):
            meet_cost(units, groups, cost, allowed)
        return
    kept = meet_cost(units, groups, cost, allowed)
    widths = {name: int(mask.sum()) for name, mask in kept.items()}
    assert cost.total(widths) <= allowed
    ragged = [g for g in groups if widths[g.name] not in (g.units, *range(0, 99, g.multiple))]
    assert len(ragged) <= 1
    for g in groups:
        width = widths[g.name]
        assert width >= g.least
        if 0 < width < g.units:
            mask = kept[g.name]
            assert units[g.name][mask].min() >= units[g.name][~mask].max()


@settings(deadline=None, max_examples=200)
@given(cases(), st.floats(0.0, 0.9), st.floats(0.02, 0.5))
def test_a_higher_target_never_leaves_more(case, share, more) -> None:
    groups, units = case
    cost = Products(groups)
    fewest = cost.total({g.name: g.least for g in groups})
    totals = []
    for s in (share, share + more * (1 - share)):
        allowed = (1 - s) * cost.total({})
        if fewest > allowed:
            return
        kept = meet_cost(units, groups, cost, allowed)
        totals.append(cost.total({name: int(mask.sum()) for name, mask in kept.items()}))
    assert totals[1] <= totals[0]


def test_units_are_those_of_a_sort() -> None:
    groups = [group("a", 6), group("b", 5)]
    units = {"a": torch.tensor([5.0, 1, 9, 2, 8, 3]), "b": torch.tensor([4.0, 7, 6, 0.5, 10])}
    kept = meet_cost(units, groups, Units(groups), 4)
    assert units["a"][kept["a"]].tolist() == [9, 8]
    assert units["b"][kept["b"]].tolist() == [7, 10]


def test_where_a_wide_layer_overshoots_a_narrow_one_goes_instead() -> None:
    groups = [group("wide", 40), group("narrow", 40)]

    class Weighted:
        unit, tolerance = "parameters", 0.01

        def total(self, kept):
            return 100.0 * kept.get("wide", 40) + 1.0 * kept.get("narrow", 40)

    units = {"wide": torch.ones(40) * 0.1, "narrow": torch.rand(40) + 1}
    cost, allowed = Weighted(), 0.995 * 4040
    kept = meet_cost(units, groups, cost, allowed)
    total = cost.total({name: int(mask.sum()) for name, mask in kept.items()})
    assert 0.99 * allowed <= total <= allowed


def test_one_width_is_ragged_rather_than_the_target_missed() -> None:
    groups = [group("a", 64, 8), group("b", 64, 8)]
    units = {g.name: torch.rand(64) + 0.1 for g in groups}
    for wanted in range(20, 120):
        kept = meet_cost(units, groups, Units(groups), wanted)
        widths = [int(mask.sum()) for mask in kept.values()]
        assert 0.99 * wanted <= sum(widths) <= wanted
        assert sum(width % 8 != 0 for width in widths) <= 1


def test_every_width_of_a_group_is_a_chunk() -> None:
    for units, multiple in product(range(1, 12), (1, 2, 4)):
        lefts = [c.left for c in chunks_of(torch.rand(units), group("a", units, multiple), 0)]
        expected = [n for n in range(units - 1, 0, -1) if n % multiple == 0]
        assert lefts == expected


@settings(deadline=None, max_examples=60)
@given(cases(), st.floats(0.0, 0.8), st.integers(0, 99))
def test_what_returns_is_the_most_salient_and_never_too_much(case, share, seed) -> None:
    groups, units = case
    cost = Products(groups)
    generator = torch.Generator().manual_seed(seed)
    kept = {g.name: torch.rand(g.units, generator=generator) < 0.5 for g in groups}
    gone = {g.name: units[g.name].clone() for g in groups}
    for values in gone.values():
        values[0] = 0.0  # gone before
    start = cost.total({name: int(mask.sum()) for name, mask in kept.items()})
    allowed = max(start, (1 - share) * cost.total({}))
    filled = fill(gone, groups, cost, allowed, kept)
    left = cost.total({name: int(mask.sum()) for name, mask in filled.items()})
    assert start <= left <= allowed
    for g in groups:
        back = filled[g.name] & ~kept[g.name]
        assert not (kept[g.name] & ~filled[g.name]).any(), "nothing more goes"
        assert not back[0] or bool(kept[g.name][0]), "what was gone before stays so"
        still = ~filled[g.name]
        if back.any() and still.any():
            assert gone[g.name][back].min() >= gone[g.name][still].max()
