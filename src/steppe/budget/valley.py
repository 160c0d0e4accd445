"""The scores themselves say how many go: those below the first valley of their histogram."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.budget.knapsack.knapsack import kept_units
from steppe.core.cost import Cost
from steppe.core.errors import SteppeError, unknown
from steppe.core.group import Group
from steppe.core.protocols import ChannelBudget, Tensors

NEAR = 0.1
"""Scores up to this share of the largest are near zero."""


def threshold(scores: Tensor, bins: int, limit: float) -> float | None:
    """Where the first valley of the histogram over [0, largest] begins.

    The counts rise to a first hump, fall, and rise again: the valley is the lowest stretch
    between, and what lies below its left edge is the hump. None if there is no such stretch that
    begins below ``limit`` times the largest score.

    Example:
        >>> threshold(torch.tensor([0.0, 0.01, 0.02, 0.8, 0.9, 1.0]), bins=10, limit=0.2)
        0.1
    """
    top = float(scores.max())
    counts = torch.histc(scores.double(), bins, 0.0, max(top, 1e-30)).tolist()
    first = next(i for i, c in enumerate(counts) if c)
    lowest: int | None = None
    for i in range(first + 1, bins):
        if counts[i] < counts[i - 1] and (lowest is None or counts[i] < counts[lowest]):
            lowest = i
        elif lowest is not None and counts[i] > counts[lowest]:
            return lowest * top / bins if lowest < limit * bins else None
    return None


def first_rise(scores: Tensor, bins: int, limit: float) -> float | None:
    """Where the counts of a histogram over [0, 1] first stop falling, as the authors search.

    The left edge of the first bin that has no more scores than the one before it and no more than
    the one after it. None if there is no such bin that begins below ``limit``.

    Example:
        >>> first_rise(torch.tensor([0.0, 0.01, 0.02, 0.8, 0.9, 1.0]), bins=10, limit=0.2)
        0.1
    """
    counts = torch.histc(scores.double(), bins, 0.0, 1.0).tolist()
    for i in range(1, bins - 1):
        if counts[i - 1] >= counts[i] <= counts[i + 1]:
            return i / bins if i < limit * bins else None
    return None


SEARCHES: Mapping[str, Callable[[Tensor, int, float], float | None]] = {
    "humps": threshold,
    "authors": first_rise,
}


@ChannelBudget.registry.register("valley")
@dataclass(frozen=True, kw_only=True)
class Valley(ChannelBudget):
    """Of each group of coupled channels those go whose score lies below the first valley.

    The valley is looked for in a histogram of the group's scores; they should be polarised, one
    hump near zero and one away from it. A group without a valley keeps everything if none of its
    scores is near zero (a tenth of the largest). **How much goes is an outcome**: the sparsity
    only says that something shall (0 keeps everything). Chosen once; later choices keep what it
    left.

    Args:
        bins: of the histogram.
        limit: where the valley must begin at the latest; the authors' code warns above 0.2.
        search: ``humps``: the lowest stretch between two humps, in a histogram from 0 to the
            group's largest score, of which ``limit`` is a share, with no more bins than the group
            has channels: else every gap between single scores would be a valley. ``authors``: the
            first bin where counts stop falling, in a histogram of [0, 1] with all bins, as the
            authors' code does for scales that are clamped to it.

    Source: Zhuang et al., Neuron-level Structured Pruning using Polarization Regularizer,
    NeurIPS 2020.
    """

    bins: int = 100
    limit: float = 0.5
    search: str = "humps"
    name = "valley"
    meets = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins < 3 or not 0.0 < self.limit <= 1.0:
            raise SteppeError(
                "valley needs 3 bins or more and a limit in (0, 1]",
                got=f"bins {self.bins}, limit {self.limit}",
            )
        if self.search not in SEARCHES:
            raise unknown("search of budget valley", self.search, SEARCHES)

    def within_cost(
        self, units: Mapping[str, Tensor], groups: Sequence[Group], cost: Cost, allowed: float
    ) -> Tensors:
        """Which units stay: group name -> ``[units]`` booleans.

        Args:
            units: group name -> ``[units]`` saliencies.
            groups: coupled channels.
            cost: is not looked at, but that nothing goes where the whole is allowed.
            allowed: see ``cost``.

        Raises:
            SteppeError: the scores of a group fall into no two humps, or no group has any that go.
        """
        widths = {g.name: g.units for g in groups}
        if cost.total(widths) <= allowed:
            return kept_units(units, widths)
        for group in groups:
            widths[group.name] = self._width(units[group.name].abs(), group)
        if all(widths[g.name] == g.units for g in groups):
            raise SteppeError(
                "budget valley prunes what lies below a valley of the scores",
                got="no score near zero in any group",
                way_out="a larger penalty, more training, or a budget that meets a sparsity",
            )
        return kept_units(units, widths)

    def _width(self, scores: Tensor, group: Group) -> int:
        bins = self.bins if self.search == "authors" else min(self.bins, max(group.units, 3))
        edge = SEARCHES[self.search](scores, bins, self.limit)
        if edge is None and float(scores.min()) > NEAR * float(scores.max()):
            return group.units
        if edge is None:
            raise SteppeError(
                "budget valley needs scores that fall into two humps",
                got=f"no valley below {self.limit:g} in {group.name} (search {self.search})",
                way_out="a larger penalty, more training, or a budget that meets a sparsity",
            )
        kept = int((scores >= edge).sum())
        # up to the next width that may stay
        return min(max(-(-kept // group.multiple) * group.multiple, group.least), group.units)
