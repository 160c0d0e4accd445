"""Wanda: weights and activations, one shot, no update."""

from __future__ import annotations

from steppe.core.protocols import Structure
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.objective.layer_reconstruction import LayerReconstruction
from steppe.schedule.one_shot import OneShot
from steppe.score.wanda import Wanda


@published("wanda", "Wanda")
def wanda(
    sparsity: float | None = None,
    budget: BudgetSpec = "per_row",
    structure: StructureSpec = "unstructured",
) -> Method:
    """Every output loses its smallest |w_ij| ||x_j||_2; the others stay as they are.

    Args:
        sparsity: fraction of the weights that is zero at the end.
        budget: per_row (the paper's), row_mass (its alpha variant), uniform (a whole matrix
            competes), owl or erk.
        structure: unstructured or N:M.

    Source: Sun et al., A Simple and Effective Pruning Approach for Large Language Models, 2024.
    """
    return Method(
        name="wanda",
        score=Wanda(),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=OneShot(),
        coupling=HardMask(),
        objective=LayerReconstruction(),
    )
