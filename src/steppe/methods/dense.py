"""Nothing is pruned: what every method is compared with."""

from __future__ import annotations

from steppe.coupling.none import NoCoupling
from steppe.method import Method
from steppe.methods.options import budget_of
from steppe.methods.registry import published
from steppe.perturb.sam import Sam


@published("dense", "Dense")
def dense(rho: float = 0.0) -> Method:
    """Plain training; with ``rho`` above 0, SAM (Foret et al. 2021).

    Args:
        rho: radius of the perturbation.
    """
    return Method(
        name="dense",
        budget=budget_of("pooled", 0.0, "unstructured"),
        coupling=NoCoupling(),
        perturb=Sam(rho=rho),
    )
