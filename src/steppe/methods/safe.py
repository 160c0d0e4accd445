"""SAFE: ADMM pruning with sharpness-aware steps, which look for flat minima."""

from __future__ import annotations

from steppe.core.protocols import Structure
from steppe.coupling.admm import Admm
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import (
    BudgetSpec,
    ObjectiveSpec,
    StructureSpec,
    budget_of,
    started,
)
from steppe.methods.registry import published
from steppe.perturb.sam import Sam
from steppe.schedule.constant import Constant
from steppe.score.magnitude import Magnitude

# the authors' settings for language models, but for the start (docs/results.md)
LANGUAGE = {
    "objective": "block_reconstruction",
    "start": "layer_admm",
    "rho": 2e-4,
    "penalty": 1e-3,
    "penalty_schedule": "constant",
    "interval": 32,
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
    start: str | None = None,
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
        objective: task, or block_reconstruction for language models, whose defaults are start
            layer_admm, rho 2e-4, a constant penalty of 1e-3, interval 32 and budget
            uniform.
        start: of a language model's blocks: what solves a block's layers before it is optimised
            (layer_admm is ALPS, obs_update SparseGPT, hard_mask the score alone). The zeros stay
            where it puts them, so the penalty has no part in it, and a block that windows held
            out do not show to be better keeps the start's weights. None is the paper's: dense,
            and ADMM finds the zeros.

    Source: Lee et al., SAFE: Finding Sparse and Flat Minima to Improve Pruning, ICML 2025.
    """
    goal = started(objective, start)
    return Method(
        name="safe",
        score=Magnitude(),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=Constant(),
        coupling=Admm(penalty=penalty, curve=penalty_schedule, interval=interval)
        if goal.starts_from is None
        else HardMask(),
        perturb=Sam(rho=rho),
        objective=goal,
    )
