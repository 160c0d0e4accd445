"""SMCP: soft masks on channels, chosen from scratch again and again by a knapsack."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.soft_mask import SoftMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.exponential import Exponential


@published("smcp", "SMCP")
def smcp(
    sparsity: float | None = None,
    decay: float = 2e-4,
    start: float = 10 / 90,
    end: float = 65 / 90,
    every: int = 80,
    score: ScoreSpec = "l2",
    budget: BudgetSpec = "latency_mckp",
    structure: StructureSpec = "channel",
) -> Method:
    """The loss sees m * w, all of w is trained; channels return when they are worth it again.

    Args:
        sparsity: fraction of the cost that is gone at the end.
        decay: lam, weight decay of what is masked.
        start, end: fractions of the run between which the sparsity rises; after that the masks
            stay.
        every: steps between two choices of the masks.
        score: l2, the channels' weights as they are now.
        budget: latency_mckp or any other.
        structure: channel.

    Source: Humble et al., Soft Masking for Cost-Constrained Channel Pruning, ECCV 2022.
    """
    return Method(
        name="smcp",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=Exponential(start=start, end=end, every=every),
        coupling=SoftMask(decay=decay),
    )
