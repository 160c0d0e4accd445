"""Layer-adaptive magnitude."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.cost import Cost
from steppe.core.cost_target import meet_cost
from steppe.core.group import Group
from steppe.core.layer import Layer
from steppe.core.protocols import ChannelBudget, Tensors, UnitBudget
from steppe.core.selection import keep_largest


@UnitBudget.registry.register("lamp")
@dataclass(frozen=True, kw_only=True)
class Lamp(UnitBudget, ChannelBudget):
    """u_i^2 / sum of u_j^2 over the units of its layer that are at least as large; then pooled.

    Of coupled channels a group takes the place of the layer.

    Source: Lee et al. 2021 (LAMP), eq. 2. Costs a sort per layer.
    """

    name = "lamp"
    layerwise = False

    def keep(self, units: Tensors, layers: Mapping[str, Layer], prune: int) -> Tensors:
        return keep_largest({name: self._lamp(u) for name, u in units.items()}, prune)

    def within_cost(
        self, units: Mapping[str, Tensor], groups: Sequence[Group], cost: Cost, allowed: float
    ) -> Tensors:
        """The channels with the smallest such share of their group go, until the cost is met."""
        shares = {name: self._lamp(u) for name, u in units.items()}
        return meet_cost(shares, groups, cost, allowed)

    @staticmethod
    def _lamp(units: Tensor) -> Tensor:
        square = units.flatten().double().square()
        # stable and descending: of equal units the earlier one counts as the larger
        ordered, index = square.sort(descending=True, stable=True)
        score = (ordered / ordered.cumsum(0)).nan_to_num_(0.0)
        return torch.empty_like(score).scatter_(0, index, score).reshape(units.shape)
