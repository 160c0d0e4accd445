"""PILoT: products m * w that begin apart, with a strength that training itself controls."""

from __future__ import annotations

from steppe.core.protocols import Perturb, Structure
from steppe.coupling.reparam.reparam import Reparam
from steppe.method import Method
from steppe.methods.options import BudgetSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.cyclic import once_or_cyclic


@published("pilot", "PILoT")
def pilot(
    sparsity: float | None = None,
    beta: float = 1.0,
    alpha: float = 1e-4,
    decay: str = "controlled",
    delta: float = 1.01,
    l1_threshold: float = 8000.0,
    init_as: str = "sign_flip",
    cycles: int = 1,
    rewind: str = "rate",
    rho: float = 0.0,
    at: float = 1.0,
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "unstructured",
) -> Method:
    """Weights are m * w with m^2 - w^2 = beta at first, under an L2 that is controlled.

    Args:
        sparsity: fraction of the weights that is zero at the end; the smallest products go.
        beta: how far the factors begin apart; at 0 signs cannot flip.
        alpha: the L2's strength at first.
        decay: controlled; or constant, harmonic, quadratic, geometric.
        delta: by which factor the controller raises or lowers alpha after an epoch.
        l1_threshold: it raises it only while the products' absolute sum is at least this (the
            paper's K for a ResNet-20; take about half of what your network starts with).
        init_as: sign_flip, or balanced to see what the initialisation is worth.
        cycles: 1 cuts once, after training; more train and cut in turn, see ``cyclic``.
        rewind: between several cycles: rate (LRR) or weights (WR).
        rho: radius of SAM, 0 without.
        at: when, as a fraction of the run; before 1, the rest trains what is left.
        budget: pooled or any other.
        structure: unstructured, N:M or block:HxW.

    Source: PILoT (ICLR 2025), algorithm 1.
    """
    return Method(
        name="pilot",
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=once_or_cyclic(cycles, rewind, at),
        coupling=Reparam(
            init_as=init_as,
            beta=beta,
            alpha=alpha,
            decay=decay,
            delta=delta,
            l1_threshold=l1_threshold,
        ),
        perturb=Perturb.make({"name": "sam", "rho": rho} if rho else "none"),
    )
