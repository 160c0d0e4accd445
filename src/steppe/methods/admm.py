"""ADMM pruning: training pulls the weights towards their pruned copy, which follows them."""

from __future__ import annotations

from steppe.core.protocols import Objective, Structure
from steppe.coupling.admm import Admm
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ObjectiveSpec, StructureSpec, budget_of
from steppe.methods.registry import published

# what the SAFE authors give their own method on language models
LANGUAGE = {
    "objective": "block_reconstruction",
    "budget": "uniform",
    "penalty": 1e-3,
    "interval": 32,
}


@published("admm", "ADMM", language=LANGUAGE)
def admm(
    sparsity: float | None = None,
    penalty: float | str = "auto",
    penalty_schedule: str | None = None,
    interval: int | str = "auto",
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "unstructured",
    objective: ObjectiveSpec = "task",
) -> Method:
    """x <- opt(g(x) + lam (x - z + u)); every K steps z <- P_d(x + u), u <- u + x - z.

    Args:
        sparsity: fraction of the weights that is zero at the end.
        penalty: auto, a pull that fits any run (see `steppe.coupling.admm.Admm`), or lam.
        penalty_schedule: constant, linear, cubic or cosine; if None cosine for the automatic
            pull, and constant (the SAFE authors' baseline) for a number.
        interval: K, steps between two dual updates; auto: round(T / 2400), at least 1.
        budget: pooled or any other.
        structure: unstructured, N:M, block:HxW or channel.
        objective: task, or block_reconstruction for language models.

    Source: Zhang et al. 2018.
    """
    if penalty_schedule is None:
        penalty_schedule = "cosine" if isinstance(penalty, str) else "constant"
    return Method(
        name="admm",
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        coupling=Admm(penalty=penalty, curve=penalty_schedule, interval=interval),
        objective=Objective.make(objective),
    )
