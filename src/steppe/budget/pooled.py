"""One threshold for all layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from steppe.core.cost import Cost
from steppe.core.cost_target import meet_cost
from steppe.core.group import Group
from steppe.core.layer import Layer
from steppe.core.protocols import ChannelBudget, Tensors, UnitBudget
from steppe.core.selection import keep_largest


@UnitBudget.registry.register("pooled")
@dataclass(frozen=True, kw_only=True)
class Pooled(UnitBudget, ChannelBudget):
    """The smallest saliencies of all layers together go: the projection of the whole network."""

    name = "pooled"
    layerwise = False

    def keep(self, units: Tensors, layers: Mapping[str, Layer], prune: int) -> Tensors:
        return keep_largest(units, prune)

    def within_cost(
        self, units: Mapping[str, Tensor], groups: Sequence[Group], cost: Cost, allowed: float
    ) -> Tensors:
        """The least salient channels of all groups together go, until the cost is met."""
        return meet_cost(units, groups, cost, allowed)
