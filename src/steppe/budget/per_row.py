"""The same sparsity in every row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.part import Budget, Tensors
from steppe.core.selection import apportion, keep_largest_per_row

if TYPE_CHECKING:
    from steppe.method import Method


@Budget.registry.register("per_row")
@dataclass(frozen=True, kw_only=True)
class PerRow(Budget):
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

    def keep(self, units: Tensors, layers: Mapping[str, Layer], prune: int) -> Tensors:
        sizes = {name: u.numel() for name, u in units.items()}
        total = sum(sizes.values())
        counts = apportion({n: prune * s / total for n, s in sizes.items()}, sizes, prune)
        masks = {}
        for name, u in units.items():
            each, left = divmod(counts[name], u.shape[0])
            per_row = torch.full((u.shape[0],), each, device=u.device)
            per_row[:left] += 1
            masks[name] = keep_largest_per_row(u, per_row)
        return masks
