"""Layer-adaptive magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.layer import Layer
from steppe.core.protocols import Budget, Tensors
from steppe.core.selection import keep_largest


@Budget.registry.register("lamp")
@dataclass(frozen=True, kw_only=True)
class Lamp(Budget):
    """u_i^2 / sum of u_j^2 over the units of its layer that are at least as large; then pooled.

    Source: Lee et al. 2021 (LAMP), eq. 2. Costs a sort per layer.
    """

    name = "lamp"
    layerwise = False

    def keep(self, units: Tensors, layers: Mapping[str, Layer], prune: int) -> Tensors:
        return keep_largest({name: self._lamp(u) for name, u in units.items()}, prune)

    @staticmethod
    def _lamp(units: Tensor) -> Tensor:
        square = units.flatten().double().square()
        # stable and descending: of equal units the earlier one counts as the larger
        ordered, index = square.sort(descending=True, stable=True)
        score = (ordered / ordered.cumsum(0)).nan_to_num_(0.0)
        return torch.empty_like(score).scatter_(0, index, score).reshape(units.shape)
