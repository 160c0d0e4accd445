"""Candidates: widths of the right cost, each tried once."""

import math

import pytest
import torch

from steppe.budget.search.candidates import Tried, into_band, most_of
from steppe.core.cost import Units
from steppe.core.group import Group, Slice


def group(name, units, multiple=1):
    rows = Slice(name, 0, torch.arange(units).view(units, 1), "output")
    return Group(name, (rows,), multiple=multiple)


GROUPS = [group("a", 20), group("b", 33, 8), group("c", 6, 2), group("d", 50)]
UNITS = {g.name: torch.rand(g.units, generator=torch.Generator().manual_seed(0)) for g in GROUPS}


@pytest.mark.parametrize("allowed", [15, 30, 55, 80, 108, 109])
def test_costs_what_is_allowed(allowed):
    cost, most = Units(GROUPS), most_of(UNITS, GROUPS)
    for seed in range(20):
        drawn = torch.rand(4, generator=torch.Generator().manual_seed(seed)).tolist()
        shares = {g.name: s for g, s in zip(GROUPS, drawn, strict=True)}
        widths, total = into_band(shares, GROUPS, most, cost, allowed)
        assert total == sum(widths.values()) <= allowed
        # single channels are there to fill up, as long as one of their groups is not whole
        assert total == allowed or all(widths[n] == most[n] for n in "ad") or allowed < 20
        for g in GROUPS:
            assert g.least <= widths[g.name] <= g.units
            assert widths[g.name] % g.multiple == 0 or widths[g.name] == g.units


def test_larger_shares_stay_larger():
    shares = {"a": 0.9, "b": 0.5, "c": 0.5, "d": 0.1}
    widths, _ = into_band(shares, GROUPS, most_of(UNITS, GROUPS), Units(GROUPS), 60)
    assert widths["a"] / 20 > widths["b"] / 33 > widths["d"] / 50


def test_what_is_gone_does_not_return():
    gone = UNITS | {"a": UNITS["a"].clone()}
    gone["a"][4:] = 0.0
    widths, _ = into_band(
        {g.name: 1.0 for g in GROUPS}, GROUPS, most_of(gone, GROUPS), Units(GROUPS), 100
    )
    assert widths["a"] == 4


def test_each_is_tried_once_and_the_first_best_wins():
    calls = []

    def trial(kept):
        calls.append(1)
        count = int(kept["a"].sum())
        return math.nan if count == 1 else float(count % 3)

    tried = Tried({"a": torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0, 0.5])}, trial)
    values = [tried({"a": n}) for n in (1, 3, 2, 5, 2, 1)]
    assert values == [-math.inf, 0.0, 2.0, 2.0, 2.0, -math.inf]
    assert len(calls) == 4
    assert tried.best()["a"].nonzero().flatten().tolist() == [3, 4]
