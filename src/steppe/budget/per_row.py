"""The same sparsity in every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import UnitBudget
from steppe.core.selection import keep_largest_per_row

if TYPE_CHECKING:
    from steppe.method import Method


@UnitBudget.registry.register("per_row")
@dataclass(frozen=True, kw_only=True)
class PerRow(UnitBudget):
    """Every output keeps the same number of its inputs, to within one (first rows lose it).

    Source: Wanda (Sun et al. 2024), which compares per output.
    """

    name = "per_row"

    def fits(self, method: Method) -> None:
        if method.structure.whole_outputs:
            raise SteppeError(
                "budget per_row chooses among the units of one output",
                got=f"structure {method.structure.name}",
                consequence="a whole output is a single unit, so there is nothing to choose",
                way_out="use budget uniform or pooled",
            )

    def within(self, units: Tensor, prune: int) -> Tensor:
        each, left = divmod(prune, units.shape[0])
        per_row = torch.full((units.shape[0],), each, device=units.device)
        per_row[:left] += 1
        return keep_largest_per_row(units, per_row)
