"""SAFE: ADMM pruning with sharpness-aware steps, which look for flat minima."""

from __future__ import annotations

from steppe.core.protocols import Objective, Structure
from steppe.coupling.admm import Admm
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ObjectiveSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.perturb.sam import Sam
from steppe.schedule.constant import Constant
from steppe.score.magnitude import Magnitude

# the authors' settings for language models
LANGUAGE = {
    "objective": "block_reconstruction",
    "rho": 2e-4,
    "penalty": 1e-3,
    "interval": 32,
    "penalty_schedule": "constant",
    "budget": "uniform",
}


@published("safe", "SAFE", language=LANGUAGE)
def safe(
    sparsity: float | None = None,
    rho: float = 0.1,
    penalty: float | str = "auto",
    penalty_schedule: str = "cosine",
    interval: int | str = "auto",
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "unstructured",
    objective: ObjectiveSpec = "task",
) -> Method:
    """min over ||x||_0 <= d of max over ||eps||_2 <= rho of f(x + eps), by ADMM (algorithm 1).

    x <- opt( g(x + rho g(x) / ||g(x)||) + lam_t (x - z + u) ), and every K steps
    z <- P_d(x + u), u <- u + x - z; returns P_d(x). lam_t = lam (1 - cos(pi t / T)) / 2. With the
    automatic penalty the pull is a step of its own, whose sum over the run is the paper's.

    Args:
        sparsity: fraction of the weights that is zero at the end.
        rho: radius of the perturbation.
        penalty: auto, a pull that fits any run (see `steppe.coupling.admm.Admm`), or lam,
            reached at the end: 1e-3 is the paper's, for its 78,000 steps.
        penalty_schedule: cosine (the paper's), constant, linear or cubic.
        interval: K, steps between two dual updates; auto: round(T / 2400), at least 1, which is
            the paper's 32 in its runs.
        budget: pooled (the paper's, for images) or any other.
        structure: unstructured, N:M, block:HxW or channel.
        objective: task, or block_reconstruction for language models, whose defaults are
            rho 2e-4, a constant penalty of 1e-3, interval 32 and budget uniform.

    Source: Lee et al., SAFE: Finding Sparse and Flat Minima to Improve Pruning, ICML 2025.
    """
    return Method(
        name="safe",
        score=Magnitude(),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=Constant(),
        coupling=Admm(penalty=penalty, curve=penalty_schedule, interval=interval),
        perturb=Sam(rho=rho),
        objective=Objective.make(objective),
    )
