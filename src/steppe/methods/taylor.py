"""Taylor: the channels whose removal changes the loss least to first order go, a few at a time."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.linear import Linear


@published("taylor", "Taylor")
def taylor(
    sparsity: float | None = None,
    score: ScoreSpec = "taylor",
    variant: str | None = None,
    start: float = 0.0,
    end: float = 0.5,
    every: int = 30,
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "channel",
) -> Method:
    """E[(sum over the channel of g w)^2]; the lowest of all layers go, a few at each cut.

    Args:
        sparsity: fraction that is gone at the end: of the channels, or of what the run counts.
        score: taylor, or taylor_gate for the same at the norm behind the channel.
        variant: of score taylor; squared where whole channels go, else mean.
        start, end: fractions of the run between which channels go.
        every: steps between two cuts.
        budget: pooled or any other.
        structure: channel or any other.

    Source: Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019.
    """
    shape = Structure.make(structure)
    by = {"name": score}
    if score == "taylor":
        by["variant"] = variant or ("squared" if shape.whole_outputs else "mean")
    return Method(
        name="taylor",
        score=Score.make(by),
        structure=shape,
        budget=budget_of(budget, sparsity, structure),
        schedule=Linear(start=start, end=end, every=every),
        coupling=HardMask(),
    )
