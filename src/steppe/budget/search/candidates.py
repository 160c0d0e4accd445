"""Candidates for a search: widths of coupled channels inside a band of costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from steppe.budget.knapsack.knapsack import kept_units
from steppe.core.cost import Cost
from steppe.core.group import Group
from steppe.core.protocols import CandidateEvaluator, Tensors

Widths = dict[str, int]

# shares are shifted in steps of 2^-30: finer than a unit of any network
HALVINGS = 30


def most_of(units: Mapping[str, Tensor], groups: Sequence[Group]) -> Widths:
    """The most units of each group that may stay: those that are gone (saliency 0) do not return.

    Example:
        >>> import torch
        >>> from steppe.core.group import Slice
        >>> group = Group("a", (Slice("a", 0, torch.arange(5).view(5, 1), "output"),), multiple=2)
        >>> most_of({"a": torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0])}, [group])
        {'a': 2}
    """
    most = {}
    for g in groups:
        alive = int(units[g.name].count_nonzero())
        if alive < g.units:
            alive = max(alive // g.multiple * g.multiple, g.least)
        most[g.name] = alive
    return most


def _rounded(share: float, group: Group, most: int) -> int:
    wanted = round(share * group.units / group.multiple) * group.multiple
    return min(max(wanted, group.least), most)


def into_band(
    shares: Mapping[str, float],
    groups: Sequence[Group],
    most: Mapping[str, int],
    cost: Cost,
    allowed: float,
) -> tuple[Widths, float]:
    """Widths whose shares differ as asked, all shifted alike so that they cost what is allowed.

    What is left of ``allowed`` then goes to the groups that lost most by rounding, in turn. So
    every draw becomes a candidate of the same cost, as nearly as whole channels allow.

    Args:
        shares: group name -> the part of its units that shall stay.
        groups: of the network.
        most: group name -> the most units that may stay.
        cost: what counts.
        allowed: the most it may come to; the fewest units must cost no more.

    Returns:
        Group name -> units that stay, and what they cost.
    """

    def at(shift: float) -> Widths:
        return {g.name: _rounded(shares[g.name] + shift, g, most[g.name]) for g in groups}

    low, high = -1.0 - max(shares.values()), 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if cost.total(at(middle)) <= allowed:
            low = middle
        else:
            high = middle
    widths = at(low)
    changed = True
    while changed:
        changed = False
        lost = {g.name: (shares[g.name] + low) * g.units - widths[g.name] for g in groups}
        for g in sorted(groups, key=lambda g: (-lost[g.name], g.name)):
            wider = widths | {g.name: min(widths[g.name] + g.multiple, most[g.name])}
            if wider != widths and cost.total(wider) <= allowed:
                widths, changed = wider, True
    return widths, cost.total(widths)


class Tried:
    """Trials of widths, each made once; channels within a group stay by saliency.

    Args:
        units: group name -> ``[units]`` saliencies.
        evaluate: group name -> ``[units]`` booleans; returns how good that is.
    """

    def __init__(self, units: Mapping[str, Tensor], evaluate: CandidateEvaluator) -> None:
        self.units, self.evaluate = units, evaluate
        self.known: dict[tuple[tuple[str, int], ...], float] = {}

    def __call__(self, widths: Widths) -> float:
        """How good the network is with these widths; what is no number is worst."""
        key = tuple(sorted(widths.items()))
        if key not in self.known:
            value = self.evaluate(kept_units(self.units, widths))
            self.known[key] = -math.inf if math.isnan(value) else value
        return self.known[key]

    def best(self) -> Tensors:
        """The units that stay of the best candidate so far, the first of equal ones."""
        best, _ = max(self.known.items(), key=lambda known: known[1])
        return kept_units(self.units, dict(best))
