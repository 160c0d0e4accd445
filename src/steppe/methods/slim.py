"""Slim: whole neurons and heads gone, chosen and repaired by least squares."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.regression import Regression
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.objective.layer_reconstruction import LayerReconstruction
from steppe.schedule.one_shot import OneShot


@published("slim", "Slim")
def slim(
    sparsity: float | None = None,
    greedy: bool = True,
    damping: float = 0.01,
    score: ScoreSpec = "wanda",
    budget: BudgetSpec = "uniform",
    structure: StructureSpec = "neurons+heads",
) -> Method:
    """Units go one after the other, each time the one whose loss the rest makes up for best.

    Args:
        sparsity: fraction of the units that is gone in each block.
        greedy: whether units are chosen so; else by the score, all at once.
        damping: added to the diagonal of the layer's Hessian, as a fraction of its mean.
        score: ranks units where the choice is not greedy: its norm over what reads a unit.
        budget: uniform: a config has one width for all blocks.
        structure: neurons, heads, neurons+heads; with +layers blocks too, see the docs.

    Source: the choice as ZipLM (Kurtic et al. 2023), the repair as there and in OSSCAR (2024).
    """
    return Method(
        name="slim",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=OneShot(),
        coupling=Regression(greedy=greedy, damping=damping),
        objective=LayerReconstruction(),
    )
