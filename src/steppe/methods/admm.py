"""ADMM pruning: training pulls the weights towards their pruned copy, which follows them."""

from __future__ import annotations

from steppe.core.protocols import Objective, Structure
from steppe.coupling.admm import Admm
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ObjectiveSpec, StructureSpec, budget_of
from steppe.methods.registry import published


@published("admm", "ADMM", language={"objective": "block_reconstruction", "budget": "uniform"})
def admm(
    sparsity: float | None = None,
    penalty: float = 1e-3,
    penalty_schedule: str = "constant",
    interval: int = 32,
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "unstructured",
    objective: ObjectiveSpec = "task",
) -> Method:
    """x <- opt(g(x) + lam (x - z + u)); every K steps z <- P_d(x + u), u <- u + x - z.

    Args:
        sparsity: fraction of the weights that is zero at the end.
        penalty: lam.
        penalty_schedule: constant (the SAFE authors' baseline), linear, cubic or cosine.
        interval: K, steps between two dual updates.
        budget: pooled or any other.
        structure: unstructured, N:M, block:HxW or channel.
        objective: task, or block_reconstruction for language models.

    Source: Zhang et al. 2018.
    """
    return Method(
        name="admm",
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        coupling=Admm(penalty=penalty, curve=penalty_schedule, interval=interval),
        objective=Objective.make(objective),
    )
