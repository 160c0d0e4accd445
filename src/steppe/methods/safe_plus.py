"""SAFE+: SAFE with a projection that knows what matters."""

from __future__ import annotations

from steppe.core.protocols import Score
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ObjectiveSpec, ScoreSpec, StructureSpec
from steppe.methods.registry import published
from steppe.methods.safe import LANGUAGE, safe


@published("safe_plus", "SAFE+", language=LANGUAGE)
def safe_plus(
    sparsity: float | None = None,
    score: ScoreSpec = "wanda",
    rho: float = 0.1,
    penalty: float | str = "auto",
    penalty_schedule: str = "cosine",
    interval: int | str = "auto",
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "unstructured",
    objective: ObjectiveSpec = "task",
    start: str | None = None,
) -> Method:
    """As SAFE, with z the closest sparse point in the norm of P: top d of sqrt(P_ii) |v_i|.

    Args:
        score: P: wanda (input norms), fisher (squared gradients), taylor, ... The last
            projection uses it too. All others as in `safe`.

    Source: SAFE (ICML 2025), section 3.4.
    """
    plain: Method = safe.build(
        sparsity, rho, penalty, penalty_schedule, interval, budget, structure, objective, start
    )
    return plain.replace(name="safe_plus", score=Score.make(score))
