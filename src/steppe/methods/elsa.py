"""ELSA: ADMM on the true loss of a whole language model, up to extreme sparsity."""

from __future__ import annotations

from steppe.core.protocols import Objective, Score, Structure
from steppe.coupling.admm import Admm
from steppe.method import Method
from steppe.methods.options import (
    BudgetSpec,
    ObjectiveSpec,
    ScoreSpec,
    StructureSpec,
    budget_of,
)
from steppe.methods.registry import published
from steppe.schedule.constant import Constant


@published("elsa", "ELSA")
def elsa(
    sparsity: float | None = None,
    penalty: float | str = 0.01,
    penalty_schedule: str = "constant",
    penalty_start: float = 0.0,
    interval: int | str = 32,
    score: ScoreSpec = "magnitude",
    state_dtype: str | None = None,
    budget: BudgetSpec = "uniform",
    structure: StructureSpec = "unstructured",
    objective: ObjectiveSpec = "task",
) -> Method:
    """x <- adam(g(x) + lam (x - z + u)); after steps 0, K, 2K: z <- P_d(x + u), u <- u + x - z.

    Then lam follows its schedule and is held until the next update; u is rescaled by old / new at
    once. Returns P_d(x). The gradient of the loss is clipped (``clip_grad_norm=1.0``), the pull is
    not. Made for Adam: betas (0.9, 0.95), no weight decay, a learning rate of 2e-4 that falls
    linearly to 0, without warm-up, over 4,096 steps of 8 windows of 2,048 tokens.

    Args:
        sparsity: fraction of the weights that is zero at the end, of each tensor the same.
        penalty: lam at the end, or auto, a pull that fits any run (see
            `steppe.coupling.admm.Admm`).
        penalty_schedule: constant, linear, cubic, cosine or exponential.
        penalty_start: lam at the start, where it is not constant; exponential needs one.
        interval: K, steps between two dual updates; auto: round(T / 2400), at least 1.
        score: magnitude keeps the largest v^2 (the authors' default), adam_second_moment the
            largest V v^2, V the optimiser's second moment (the paper's objective-aware projection).
        state_dtype: bfloat16 keeps x + u in 16 bits; None in those of the weights.
        budget: uniform or any other.
        structure: unstructured, N:M, block:HxW or channel.
        objective: what is optimised; task is the loss of the training, which for a language model
            as a whole is that of the next token.

    Source: ELSA (ICLR 2026), arXiv 2510.01650.
    """
    return Method(
        name="elsa",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=Constant(),
        coupling=Admm(
            penalty=penalty,
            curve=penalty_schedule,
            interval=interval,
            start=penalty_start,
            held=not isinstance(penalty, str),
            update_first=True,
            state_dtype=state_dtype,
        ),
        objective=Objective.make(objective),
    )
