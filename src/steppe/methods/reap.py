"""REAP: the experts gone that add the least to the outputs of their mixtures."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.reroute import Reroute
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.objective.layer_reconstruction import LayerReconstruction
from steppe.schedule.one_shot import OneShot


@published("reap", "REAP")
def reap(
    sparsity: float | None = None,
    score: ScoreSpec = "reap",
    budget: BudgetSpec = "uniform",
    structure: StructureSpec = "experts",
) -> Method:
    """Of each mixture the experts go that add least to its output on the tokens that they get.

    Args:
        sparsity: fraction of the experts that is gone in each mixture.
        score: reap, or routing_frequency, gate_mass, or one of the weights alone.
        budget: uniform: a config has one number of experts for all mixtures.
        structure: experts.

    Source: Lasby et al., REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression,
        2025 (arXiv 2510.13999).
    """
    return Method(
        name="reap",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=OneShot(),
        coupling=Reroute(),
        objective=LayerReconstruction(),
    )
