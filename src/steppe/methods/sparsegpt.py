"""SparseGPT: one sweep over each layer's columns."""

from __future__ import annotations

from steppe.core.protocols import Structure
from steppe.coupling.obs_update import ObsUpdate
from steppe.method import Method
from steppe.methods.options import BudgetSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.objective.layer_reconstruction import LayerReconstruction
from steppe.schedule.one_shot import OneShot
from steppe.score.obs import Obs


@published("sparsegpt", "SparseGPT")
def sparsegpt(
    sparsity: float | None = None,
    damping: float = 0.01,
    block: int = 128,
    budget: BudgetSpec = "uniform",
    structure: StructureSpec = "unstructured",
) -> Method:
    """Each layer at once: the smallest w^2 / U_jj^2 go, the columns to the right make up for it.

    Args:
        sparsity: fraction of the weights that is zero at the end.
        damping: added to the diagonal of the layer's Hessian, as a fraction of its mean.
        block: columns whose mask is chosen together.
        budget: uniform, or one that gives layers different sparsities.
        structure: unstructured or N:M.

    Source: Frantar & Alistarh 2023.
    """
    return Method(
        name="sparsegpt",
        score=Obs(),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=OneShot(),
        coupling=ObsUpdate(damping=damping, block=block),
        objective=LayerReconstruction(),
    )
