"""spred: the L1 penalty as L2 on a product, by plain gradient descent."""

from __future__ import annotations

from steppe.core.protocols import Structure
from steppe.coupling.reparam.reparam import Reparam
from steppe.method import Method
from steppe.methods.options import BudgetSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.cyclic import once_or_cyclic


@published("spred", "spred")
def spred(
    sparsity: float | None = None,
    alpha: float = 1e-4,
    init_as: str = "balanced",
    cycles: int = 1,
    rewind: str = "rate",
    at: float = 1.0,
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "unstructured",
) -> Method:
    """Weights are m * w with |m| = |w|, under a constant L2: its minima are those of an L1.

    Args:
        sparsity: fraction of the weights that is zero at the end; the smallest products go.
        alpha: a of a (||m||^2 + ||w||^2), that is an L1 of strength 2 a on the weights.
        init_as: balanced; given lets w begin as the weights and m as 1.
        cycles: 1 cuts once, after training; more train and cut in turn, see ``cyclic``.
        rewind: between several cycles: rate (LRR) or weights (WR).
        at: when, as a fraction of the run; before 1, the rest trains what is left.
        budget: pooled or any other.
        structure: unstructured, N:M or block:HxW.

    Source: Ziyin & Wang, spred: Solving L1 Penalty with SGD, ICML 2023.
    """
    return Method(
        name="spred",
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=once_or_cyclic(cycles, rewind, at),
        coupling=Reparam(init_as=init_as, alpha=alpha),
    )
