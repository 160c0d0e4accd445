"""Chunks of channels are kept by importance and price (HALP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from steppe.budget.knapsack.knapsack import (
    Numbers,
    choose_prefixes,
    kept_units,
    priced_widths,
    widths_of,
)
from steppe.core.cost import Cost
from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.protocols import ChannelBudget, Tensors


def solve_chunks(
    values: list[Numbers], prices: list[Numbers], capacity: float, resolution: float
) -> list[int] | None:
    """As `steppe.budget.knapsack.knapsack.choose`, with each group's first width free of choice.

    A chunk's price is the difference of two widths', and none below 0.
    """
    first = sum(float(p[0]) for p in prices)
    chunks = [np.diff(v) for v in values], [np.diff(p) for p in prices]
    return choose_prefixes(*chunks, capacity - first, resolution)


@ChannelBudget.registry.register("latency_knapsack")
@dataclass(frozen=True, kw_only=True)
class LatencyKnapsack(ChannelBudget):
    """A knapsack of chunks: units of a group ranked by saliency and cut into equal numbers.

    max sum of the kept chunks' saliencies with sum of their prices <= capacity; a chunk is kept
    only if the more important ones of its group are. A chunk's price is what it adds to the cost
    of the whole network at the current widths of the other groups, 0 if it adds nothing; each
    group's first chunk always stays. As prices hold only near the widths they were taken at, they
    are taken anew while the capacity falls (see `steppe.budget.knapsack`) until the true cost
    fits. The paper solves it by a table that is no exact optimum, and prices a layer's outputs
    only; here both ends count and the optimum is exact.

    Args:
        chunk: units that go together, rounded up to a multiple of the group's own.
        floor: the share of every group that always stays.
        rounds: how often prices are taken anew on the way down, and at most as often after it.
        steps: prices are rounded up to allowed / steps.

    Source: Shen et al. 2022 (HALP), section 3; written from the paper.
    """

    chunk: int = 1
    floor: float = 0.0
    rounds: int = 10
    steps: int = 4000
    name = "latency_knapsack"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.chunk, self.rounds, self.steps) < 1:
            raise SteppeError(
                "latency_knapsack needs a chunk, rounds and steps of 1 or more",
                got=f"chunk {self.chunk}, rounds {self.rounds}, steps {self.steps}",
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
            SteppeError: not even one chunk of every group fits.
        """
        options = [widths_of(group, units[group.name], self.chunk, self.floor) for group in groups]
        counts = priced_widths(
            options, cost, allowed, solve_chunks, rounds=self.rounds, steps=self.steps
        )
        return kept_units(units, counts)
