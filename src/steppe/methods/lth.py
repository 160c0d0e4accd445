"""The lottery ticket's iterative magnitude pruning: weights are rewound (LTH, WR)."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.cyclic import Cyclic


@published("lth", "LTH")
def lth(
    sparsity: float | None = None,
    cycles: int = 10,
    to: float = 0.0,
    score: ScoreSpec = "magnitude",
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "unstructured",
) -> Method:
    """Train, cut the smallest, put what is left back to where it began, train again.

    Args:
        sparsity: fraction of the weights that is zero at the end.
        cycles: trainings; each cut but the last training's takes the same share of what is left.
        to: where it began: a fraction of the first training.
        score: any score.
        budget: pooled (global) or any other.
        structure: unstructured, N:M or block:HxW.

    Source: Frankle & Carbin 2019; Frankle et al. 2020.
    """
    return Method(
        name="lth",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=Cyclic(cycles=cycles, rewind="weights", to=to),
        coupling=HardMask(),
    )
