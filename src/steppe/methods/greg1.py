"""GReg-1: what shall go is chosen first and pulled to zero ever harder."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.growing_reg import GrowingReg
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.constant import Constant


@published("greg1", "GReg-1")
def greg1(
    sparsity: float | None = None,
    delta: float = 1e-4,
    ceiling: float = 1.0,
    update_every: int = 5,
    hold: int = 40_000,
    recover: float = 0.0,
    score: ScoreSpec = "l1",
    budget: BudgetSpec = "uniform",
    structure: StructureSpec = "channel",
) -> Method:
    """Each layer's smallest channels by L1 norm are chosen before the first step, and penalised.

    Args:
        sparsity: fraction of the channels, or of the cost, that is gone at the end.
        delta: by how much the penalty grows at a time.
        ceiling: its largest value.
        update_every: steps between two updates.
        hold: steps at the largest value before what was chosen is removed.
        recover: penalty on what stays; 0, or negative to push it away from zero.
        score: l1.
        budget: uniform: the same share of every layer.
        structure: channel; unstructured works too.

    Source: Wang et al., Neural Pruning via Growing Regularization, ICLR 2021.
    """
    return Method(
        name="greg1",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=Constant(),
        coupling=GrowingReg(
            pick="now",
            delta=delta,
            ceiling=ceiling,
            update_every=update_every,
            hold=hold,
            recover=recover,
        ),
    )
