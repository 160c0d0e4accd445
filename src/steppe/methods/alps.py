"""ALPS: ADMM on each layer's own reconstruction."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.layer_admm import LayerAdmm
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.objective.layer_reconstruction import LayerReconstruction
from steppe.schedule.one_shot import OneShot


@published("alps", "ALPS")
def alps(
    sparsity: float | None = None,
    iterations: int = 24,
    damping: float = 0.01,
    refine: int = 10,
    score: ScoreSpec = "magnitude",
    budget: BudgetSpec = "uniform",
    structure: StructureSpec = "unstructured",
) -> Method:
    """Each layer by ADMM on ||X W' - X W0'||^2, then conjugate gradients on the weights it keeps.

    Args:
        sparsity: fraction of the weights that is zero at the end.
        iterations: of ADMM; more give a slightly lower error.
        damping: added to the diagonal of the layer's Hessian, as a fraction of its mean.
        refine: steps of conjugate gradients, at most.
        score: ranks the weights in coordinates where every input has norm 1: magnitude.
        budget: uniform, or one that gives layers different sparsities.
        structure: unstructured, N:M, block:HxW or channel.

    Source: Meng et al. 2024.
    """
    return Method(
        name="alps",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=OneShot(),
        coupling=LayerAdmm(iterations=iterations, damping=damping, refine=refine),
        objective=LayerReconstruction(),
    )
