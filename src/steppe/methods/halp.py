"""HALP: a knapsack of channels by their Taylor score and their price in latency."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.exponential import Exponential


@published("halp", "HALP")
def halp(
    sparsity: float | None = None,
    chunk: int = 1,
    start: float = 0.0,
    end: float = 0.5,
    every: int = 40,
    score: ScoreSpec = "taylor_gate",
    budget: BudgetSpec = "latency_knapsack",
    structure: StructureSpec = "channel",
) -> Method:
    """The most importance that a latency allows; the latency falls to its target in steps.

    Args:
        sparsity: fraction of the cost (latency, if the run counts that) that is gone at the end.
        chunk: channels that go together.
        start, end: fractions of the run between which channels go; the same share of what remains
            each time.
        every: steps between two cuts.
        score: taylor_gate: the squared gate of the norms behind the channels; HALP's absolute value
            is taylor in its variant ``gate_absolute``. taylor takes channels without a norm, too.
        budget: latency_knapsack or any other.
        structure: channel.

    Source: Shen et al., Structural Pruning via Latency-Saliency Knapsack (HALP), NeurIPS 2022.
    """
    spec = {"name": budget, "chunk": chunk} if budget == "latency_knapsack" else budget
    return Method(
        name="halp",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(spec, sparsity, structure),
        schedule=Exponential(start=start, end=end, every=every),
        coupling=HardMask(),
    )
