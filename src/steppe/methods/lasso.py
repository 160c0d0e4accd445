"""LASSO: an L1 penalty on the weights, then the smallest go."""

from __future__ import annotations

from steppe.core.protocols import Structure
from steppe.coupling.l1 import L1
from steppe.method import Method
from steppe.methods.options import BudgetSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.one_shot import OneShot


@published("lasso", "LASSO")
def lasso(
    sparsity: float | None = None,
    alpha: float = 1e-4,
    step: str = "proximal",
    at: float = 1.0,
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "unstructured",
) -> Method:
    """Train under alpha ||x||_1, then cut.

    Args:
        sparsity: fraction of the weights that is zero at the end, at least.
        alpha: the penalty.
        step: proximal, with exact zeros on the way; or subgradient, as in PILoT's baselines.
        at: when, as a fraction of the run; before 1, the rest trains what is left.
        budget: pooled or any other.
        structure: unstructured, N:M or block:HxW.

    Source: Tibshirani 1996.
    """
    return Method(
        name="lasso",
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=OneShot(at=at),
        coupling=L1(alpha=alpha, step=step),
    )
