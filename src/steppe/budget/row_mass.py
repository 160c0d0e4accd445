"""Every row may lose the same share of its saliency (Wanda's alpha variant)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import UnitBudget
from steppe.core.selection import keep_largest

if TYPE_CHECKING:
    from steppe.method import Method


@UnitBudget.registry.register("row_mass")
@dataclass(frozen=True, kw_only=True)
class RowMass(UnitBudget):
    """A row loses its smallest saliencies while their sum is at most alpha times the row's.

    alpha is one per layer, such that the count is exact. The authors bisect it; here the weights
    are ranked by the share of the row's sum that goes with them, which finds it at once.
    Costs a sort of each layer.

    Source: Sun et al. 2024 (Wanda), the released code's ``use_variant``.
    """

    name = "row_mass"

    def fits(self, method: Method) -> None:
        if method.structure.whole_outputs:
            raise SteppeError(
                "budget row_mass chooses among the units of one output",
                got=f"structure {method.structure.name}",
                way_out="use budget uniform or pooled",
            )

    def within(self, units: Tensor, prune: int) -> Tensor:
        # descending and stable, so that of equal units the earlier counts as the larger
        ordered, index = units.abs().double().sort(dim=1, descending=True, stable=True)
        gone = ordered.flip(1).cumsum(1).flip(1)
        share = gone / gone[:, :1].clamp_min(torch.finfo(torch.float64).tiny)
        share = torch.empty_like(share).scatter_(1, index, share)
        return keep_largest({"": share}, prune)[""]
