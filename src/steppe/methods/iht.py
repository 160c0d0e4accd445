"""Iterative hard thresholding (IHT): pruned after every step; a weight may come back."""

from __future__ import annotations

from steppe.core.protocols import Structure
from steppe.coupling.project import Projected
from steppe.method import Method
from steppe.methods.options import BudgetSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.cubic import Cubic


@published("iht", "IHT")
def iht(
    sparsity: float | None = None,
    start: float = 0.0,
    end: float = 1.0,
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "unstructured",
) -> Method:
    """The weights are projected after every step; they may return. Cubic schedule.

    Args:
        sparsity: fraction of the weights that is zero at the end.
        start: fraction of the run at which pruning starts.
        end: fraction at which the final sparsity is reached.
        budget: pooled or any other.
        structure: unstructured, N:M, block:HxW or channel.

    Source: Blumensath & Davies 2009; schedule as in SAFE's baseline.
    """
    return Method(
        name="iht",
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=Cubic(start=start, end=end),
        coupling=Projected(),
    )
