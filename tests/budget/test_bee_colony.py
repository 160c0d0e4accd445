"""ABCPruner's colony: codes in their range, never worse, each code tried once."""

import random

import pytest
import torch

from steppe import SteppeError
from steppe.budget.bee_colony import BeeColony
from steppe.core.cost import Units
from steppe.core.group import Group, Slice

SIZES = {"a": 40, "b": 64, "c": 24}
GROUPS = [Group(n, (Slice(n, 0, torch.arange(k).view(k, 1), "output"),)) for n, k in SIZES.items()]
UNITS = {n: torch.rand(k, generator=torch.Generator().manual_seed(k)) for n, k in SIZES.items()}
GOAL = (3, 9, 1, 5)


def nearness(code):
    return 1.0 - sum(abs(c - g) for c, g in zip(code, GOAL, strict=True)) / 40


@pytest.mark.parametrize("seed", range(5))
def test_codes_stay_in_range_and_the_best_never_falls(seed):
    seen = []

    def fitness(code):
        seen.append(code)
        return nearness(code)

    best = BeeColony(sparsity=0.5, cycles=30, seed=seed).fly(fitness, 4)
    assert all(1 <= c <= 9 for code in seen for c in code)
    assert len(best) == 31
    assert best == sorted(best)
    assert best[-1] == max(map(nearness, seen))
    assert best[-1] > max(best[0], 0.9)


def test_neighbours_may_differ_in_any_group():
    bees, rng, changed = BeeColony(sparsity=0.5, change=1), random.Random(0), set()
    for _ in range(200):
        code = bees.neighbour((5, 5, 5), (1, 9, 1), rng)
        differing = {j for j in range(3) if code[j] != 5}
        assert len(differing) <= 1
        changed |= differing
    assert changed == {0, 1, 2}
    assert bees.neighbour((4, 4, 4), (4, 4, 4), rng) == (4, 4, 4)


def test_all_compete_at_the_same_cost_and_none_twice():
    seen = []

    def trial(kept):
        seen.append(tuple(int(k.sum()) for k in kept.values()))
        return seen[-1][0] / 40

    bees = BeeColony(sparsity=0.5, cycles=6)
    kept = bees.search(UNITS, GROUPS, Units(GROUPS), 64, trial)
    assert all(0.99 * 64 <= sum(widths) <= 64 for widths in seen)
    assert len(seen) == len(set(seen))
    assert int(kept["a"].sum()) == max(widths[0] for widths in seen)
    first = list(seen)
    seen.clear()
    again = bees.search(UNITS, GROUPS, Units(GROUPS), 64, trial)
    assert seen == first
    assert all(torch.equal(kept[n], again[n]) for n in kept)


def test_wrong_options():
    for wrong in ({"food": 1}, {"cycles": 0}, {"limit": 0}, {"change": 0}, {"most": 11}):
        with pytest.raises(SteppeError, match="bee_colony needs"):
            BeeColony(sparsity=0.5, **wrong)
