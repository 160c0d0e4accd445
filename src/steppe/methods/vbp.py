"""Variance-Based Pruning: channels that hardly vary go at once, their means move into biases."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.one_shot import OneShot


@published("vbp", "VBP")
def vbp(
    sparsity: float | None = None,
    at: float = 0.1,
    shift: bool = True,
    score: ScoreSpec = "variance",
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "channel",
) -> Method:
    """The channels, neurons and heads of the least variance go; what reads them keeps their mean.

    Args:
        sparsity: fraction of what the run counts that is gone: parameters, multiply-adds,
            latency or channels.
        at: when, as a fraction of the run. Before, means and variances are gathered, so start from
            trained weights; after, what is left is fine-tuned. 1: at the end, without fine-tuning.
        shift: whether the means move into the biases behind.
        score: variance or any other.
        budget: pooled or any other.
        structure: channel.

    Source: Berisha et al., Variance-Based Pruning for Accelerating and Compressing Trained
    Networks, ICCV 2025 (arXiv 2507.12988).
    """
    return Method(
        name="vbp",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=OneShot(at=at),
        coupling=HardMask(shift=shift),
    )
