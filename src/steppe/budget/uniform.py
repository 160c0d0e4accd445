"""The same sparsity in every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from steppe.budget.knapsack.knapsack import kept_units
from steppe.budget.search.candidates import into_band, most_of
from steppe.core.cost import Cost
from steppe.core.cost_target import meet_cost
from steppe.core.group import Group
from steppe.core.protocols import ChannelBudget, Tensors, UnitBudget


@UnitBudget.registry.register("uniform")
@dataclass(frozen=True, kw_only=True)
class Uniform(UnitBudget, ChannelBudget):
    """Every layer loses the same fraction, to within one unit (largest remainder)."""

    name = "uniform"

    def within_cost(
        self, units: Mapping[str, Tensor], groups: Sequence[Group], cost: Cost, allowed: float
    ) -> Tensors:
        """Every group keeps the same share of its channels, as large as the cost allows."""
        most = most_of(units, groups)
        widths, total = into_band({g.name: 0.0 for g in groups}, groups, most, cost, allowed)
        if total > allowed:
            return meet_cost(units, groups, cost, allowed)  # says what is wrong
        return kept_units(units, widths)
