"""EagleEye's search: candidates inside the band, the best of them, the same for the same seed."""

import pytest
import torch

from steppe import SteppeError
from steppe.budget.adaptive_bn_search import AdaptiveBnSearch
from steppe.core.cost import Units
from steppe.core.group import Group, Slice

SIZES = {"a": 40, "b": 64, "c": 24}
GROUPS = [Group(n, (Slice(n, 0, torch.arange(k).view(k, 1), "output"),)) for n, k in SIZES.items()]
UNITS = {n: torch.rand(k, generator=torch.Generator().manual_seed(k)) for n, k in SIZES.items()}
COST = Units(GROUPS)


class Trial:
    """The more of ``a`` the better."""

    def __init__(self):
        self.seen = []

    def __call__(self, kept):
        self.seen.append({n: int(k.sum()) for n, k in kept.items()})
        for name, alive in kept.items():  # channels within a group stay by saliency
            if alive.any() and not alive.all():
                assert UNITS[name][alive].min() >= UNITS[name][~alive].max()
        return self.seen[-1]["a"] / 40


def test_every_candidate_costs_what_is_allowed_and_the_best_wins():
    trial = Trial()
    kept = AdaptiveBnSearch(sparsity=0.5, candidates=30).search(UNITS, GROUPS, COST, 64, trial)
    assert len(trial.seen) == 30 == len({tuple(s.values()) for s in trial.seen})
    assert all(0.99 * 64 <= sum(seen.values()) <= 64 for seen in trial.seen)
    assert int(kept["a"].sum()) == max(seen["a"] for seen in trial.seen)
    assert len({seen["a"] for seen in trial.seen}) > 5, "the candidates hardly differ"


def test_deterministic_under_its_seed():
    def widths_drawn(seed):
        budget = AdaptiveBnSearch(sparsity=0.5, candidates=10, seed=seed)
        return budget.drawn(UNITS, GROUPS, COST, 64)

    state = torch.get_rng_state()
    assert widths_drawn(3) == widths_drawn(3) != widths_drawn(4)
    assert torch.equal(state, torch.get_rng_state())


def test_where_no_width_lies_in_the_band_the_nearest_is_tried():
    coarse = [Group("a", GROUPS[0].slices, multiple=16)]
    widths_drawn = AdaptiveBnSearch(sparsity=0.5).drawn(
        {"a": UNITS["a"]}, coarse, Units(coarse), 30.0
    )
    assert widths_drawn == [{"a": 16}]


def test_wrong_options():
    for wrong in ({"candidates": 0}, {"low": 0.8}, {"high": 1.5}, {"band": -1.0}):
        with pytest.raises(SteppeError, match="adaptive_bn_search needs"):
            AdaptiveBnSearch(sparsity=0.5, **wrong)
