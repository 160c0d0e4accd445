"""Learning-rate rewinding: only the learning rate begins anew after each cut (LRR)."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.cyclic import Cyclic


@published("lrr", "LRR")
def lrr(
    sparsity: float | None = None,
    cycles: int = 10,
    score: ScoreSpec = "magnitude",
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "unstructured",
) -> Method:
    """Train, cut the smallest, train on with the learning rate of the beginning.

    Args:
        sparsity: fraction of the weights that is zero at the end.
        cycles: trainings; each cut takes the same share of what is left.
        score: any score.
        budget: pooled (global) or any other.
        structure: unstructured, N:M or block:HxW.

    Source: Renda et al. 2020; Maene et al. 2021.
    """
    return Method(
        name="lrr",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=Cyclic(cycles=cycles, rewind="rate"),
        coupling=HardMask(),
    )
