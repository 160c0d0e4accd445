"""EagleEye: many random widths are tried out with batch norm adapted, the best is fine-tuned."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.one_shot import OneShot


@published("eagleeye", "EagleEye")
def eagleeye(
    sparsity: float | None = None,
    candidates: int = 100,
    low: float = 0.0,
    high: float = 0.7,
    seed: int = 0,
    score: ScoreSpec = "l1",
    budget: BudgetSpec = "adaptive_bn_search",
    structure: StructureSpec = "channel",
) -> Method:
    """All is chosen before the first step; start it from trained weights.

    Args:
        sparsity: fraction of the cost that goes.
        candidates: how many widths are tried.
        low, high: the range of a layer's share that goes.
        seed: of the candidates.
        score: l1 ranks the channels within a layer.
        budget: adaptive_bn_search or any other.
        structure: channel.

    Source: Li et al., EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning,
    ECCV 2020.
    """
    options = {"candidates": candidates, "low": low, "high": high, "seed": seed}
    spec = {"name": budget, **options} if budget == "adaptive_bn_search" else budget
    return Method(
        name="eagleeye",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(spec, sparsity, structure),
        schedule=OneShot(at=0.0),
        coupling=HardMask(),
    )
