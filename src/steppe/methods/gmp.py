"""Gradual magnitude pruning (GMP): more and more of the smallest weights go during training."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.cubic import Cubic


@published("gmp", "GMP")
def gmp(
    sparsity: float | None = None,
    start: float = 0.0,
    end: float = 0.75,
    every: int = 32,
    score: ScoreSpec = "magnitude",
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "unstructured",
) -> Method:
    """Sparsity rises by the cubic schedule; what is gone stays gone.

    Args:
        sparsity: fraction of the weights that is zero at the end.
        start: fraction of the run at which pruning starts.
        end: fraction at which it ends; the rest trains the final mask. (The SAFE authors'
            baseline ends at 1.0, with no training after the last cut.)
        every: steps between two cuts.
        score: any score.
        budget: pooled or any other.
        structure: unstructured, N:M, block:HxW or channel.

    Source: Zhu & Gupta 2017, eq. 1.
    """
    return Method(
        name="gmp",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=Cubic(start=start, end=end, every=every),
        coupling=HardMask(),
    )
