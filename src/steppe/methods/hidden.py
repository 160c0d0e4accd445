"""Hidden: dimensions of the residual stream gone, what reads it fitted to those that stay."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.reread import Reread
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.objective.layer_reconstruction import LayerReconstruction
from steppe.schedule.one_shot import OneShot


@published("hidden", "Hidden")
def hidden(
    sparsity: float | None = None,
    scale: bool = True,
    fit: bool = True,
    damping: float = 0.01,
    score: ScoreSpec = "norm_output",
    budget: BudgetSpec = "uniform",
    structure: StructureSpec = "hidden",
) -> Method:
    """Dimensions go of which the norms give least; what reads the norms makes up for them.

    Args:
        sparsity: fraction of the dimensions of the residual stream that is gone.
        scale: whether the norms are scaled, whose mean is over fewer dimensions.
        fit: whether what reads the norms is fitted to the dense model.
        damping: of the fit.
        score: norm_output, or random.
        budget: uniform.
        structure: hidden.

    Source: the choice as Minitron (Muralidharan et al. 2024, arXiv 2407.14679); the repair is
        ours.
    """
    return Method(
        name="hidden",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=OneShot(),
        coupling=Reread(scale=scale, fit=fit, damping=damping),
        objective=LayerReconstruction(),
    )
