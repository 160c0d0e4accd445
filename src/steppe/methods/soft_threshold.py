"""STR: each layer learns its threshold."""

from __future__ import annotations

from steppe.core.protocols import Perturb, Structure
from steppe.coupling.soft_threshold import SoftThreshold
from steppe.method import Method
from steppe.methods.options import BudgetSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.one_shot import OneShot


@published("soft_threshold", "STR")
def soft_threshold(
    sparsity: float | None = None,
    start: float = -10.0,
    rho: float = 0.0,
    at: float = 1.0,
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "unstructured",
) -> Method:
    """Soft threshold reparametrisation (STR): how sparse it gets is left to the weight decay.

    Args:
        sparsity: fraction of the weights that is zero at the end **at least**: the optimiser's
            weight decay decides how many the learned thresholds make zero; what they leave too
            much goes last.
        start: s at the beginning, of the threshold sigmoid(s).
        rho: radius of SAM, 0 without.
        at: when, as a fraction of the run; before 1, the rest trains what is left.
        budget: of the last cut; pooled or any other.
        structure: of the last cut; the thresholds know none.

    Source: STR: Kusupati et al., Soft Threshold Weight Reparameterization, ICML 2020.
    """
    return Method(
        name="soft_threshold",
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=OneShot(at=at),
        coupling=SoftThreshold(start=start),
        perturb=Perturb.make({"name": "sam", "rho": rho} if rho else "none"),
    )
