"""Every group gets the width that a knapsack over all of them finds (SMCP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from steppe.budget.knapsack.knapsack import choose, kept_units, priced_widths, widths_of
from steppe.core.cost import Cost
from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.protocols import ChannelBudget, Tensors


@ChannelBudget.registry.register("latency_mckp")
@dataclass(frozen=True, kw_only=True)
class LatencyMckp(ChannelBudget):
    """A multiple-choice knapsack over (group, width), solved from scratch each time.

    max sum of the kept saliencies with cost(widths) <= allowed, one width per group. A width's
    price is what it changes in the cost of the whole network at the current widths of the others;
    a narrower layer that is slower is thus never chosen for its speed. As prices hold only near
    the widths they were taken at, they are taken anew (see `steppe.budget.knapsack`) until the true
    cost fits.

    Args:
        floor: the share of every group that always stays.
        rounds: how often prices are taken anew on the way down, and at most as often after it.
        steps: prices are rounded up to allowed / steps.

    Source: Humble et al. 2022 (SMCP), section 3.3; written from the paper.
    """

    floor: float = 0.0
    rounds: int = 10
    steps: int = 4000
    name = "latency_mckp"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or self.steps < 1:
            raise SteppeError(
                "latency_mckp needs rounds and steps of 1 or more",
                got=f"rounds {self.rounds}, steps {self.steps}",
            )
        if not 0.0 <= self.floor < 1.0:
            raise SteppeError(f"{self.name} needs a floor in [0, 1)", got=self.floor)

    def within_cost(
        self, units: Mapping[str, Tensor], groups: Sequence[Group], cost: Cost, allowed: float
    ) -> Tensors:
        """Which units stay: group name -> ``[units]`` booleans.

        Args:
            units: group name -> ``[units]`` saliencies, ranked by absolute value.
            groups: coupled channels.
            cost: of the network as a function of the groups' widths.
            allowed: the most it may be.

        Raises:
            SteppeError: not even the fewest channels fit.
        """
        options = [widths_of(group, units[group.name], floor=self.floor) for group in groups]
        counts = priced_widths(options, cost, allowed, choose, rounds=self.rounds, steps=self.steps)
        return kept_units(units, counts)
