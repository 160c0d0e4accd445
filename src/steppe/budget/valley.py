"""The scores themselves say how many go: those below the first valley of their histogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.budget.knapsack.knapsack import kept_units
from steppe.core.cost import Cost
from steppe.core.errors import SteppeError
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
        bins: of the histogram from 0 to the group's largest score; no more than the group has
            channels, as every gap between single scores would be a valley else.
        limit: where the valley must begin at the latest, as a share of the largest score. (The
            authors' code warns above 0.2, where scales end near 0.5.)

    Source: Zhuang et al., Neuron-level Structured Pruning using Polarization Regularizer,
    NeurIPS 2020.
    """

    bins: int = 100
    limit: float = 0.5
    name = "valley"
    meets = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins < 3 or not 0.0 < self.limit <= 1.0:
            raise SteppeError(
                "valley needs 3 bins or more and a limit in (0, 1]",
                got=f"bins {self.bins}, limit {self.limit}",
            )

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
        edge = threshold(scores, min(self.bins, max(group.units, 3)), self.limit)
        if edge is None and float(scores.min()) > NEAR * float(scores.max()):
            return group.units
        if edge is None:
            raise SteppeError(
                "budget valley needs scores that fall into two humps",
                got=f"no valley below {self.limit:g} of the largest in {group.name}",
                way_out="a larger penalty, more training, or a budget that meets a sparsity",
            )
        kept = int((scores >= edge).sum())
        # up to the next width that may stay
        return min(max(-(-kept // group.multiple) * group.multiple, group.least), group.units)
