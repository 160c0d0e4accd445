"""MLPrune: what the loss misses least in a Kronecker-factored Fisher matrix goes, at once."""

from __future__ import annotations

from steppe.core.protocols import Structure
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.one_shot import OneShot
from steppe.score.kfac import Kfac


@published("mlprune", "MLPrune")
def mlprune(
    sparsity: float | None = None,
    at: float = 0.1,
    damping: float = 0.1,
    compensate: bool = False,
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "unstructured",
) -> Method:
    """The smallest w_ij^2 / (2 [G^-1]_ii [A^-1]_jj) of all layers go at once; the rest trains on.

    Args:
        sparsity: fraction of the weights that is zero at the end.
        at: when, as a fraction of the run. Before, A and G are gathered, so start from trained
            weights; after, what is left is retrained.
        damping: in units of the mean eigenvalue of the Fisher matrix, as in score kfac.
        compensate: whether the weights that stay make up for those that go, once.
        budget: pooled, which gives every layer its share by itself, or any other.
        structure: unstructured, N:M, block:HxW or, without compensate, channel.

    Source: Zeng & Urtasun, MLPrune: Multi-Layer Pruning for Automated Neural Network Compression,
    2018.
    """
    return Method(
        name="mlprune",
        score=Kfac(damping=damping),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=OneShot(at=at),
        coupling=HardMask(compensate=compensate),
    )
