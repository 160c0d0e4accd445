"""Taylor: the channels whose removal changes the loss least to first order go, a few at a time."""

from __future__ import annotations

from steppe.core.errors import SteppeError
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
    variant: str | None = "auto",
    start: float = 0.0,
    end: float = 0.5,
    every: int = 30,
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "channel",
) -> Method:
    """E[(dL/dz)^2], z a gate of 1 behind the channel; the lowest go, a few at each cut.

    Args:
        sparsity: fraction that is gone at the end: of the channels, or of what the run counts.
        score: taylor or any other.
        variant: of score taylor, see `steppe.score.taylor`. auto: the gate is that of the norm
            behind the channel; without a norm, sum E[(g w)^2] over the channel's weights. None is
            auto, too: so older recipes have it.
        start, end: fractions of the run between which channels go.
        every: steps between two cuts.
        budget: pooled or any other.
        structure: channel or any other.

    Source: Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019.
    """
    variant = variant or "auto"
    if score != "taylor" and variant != "auto":
        raise SteppeError(
            "variant is an option of score taylor",
            got=f"variant {variant!r} with score {score!r}",
            way_out="score taylor, or leave variant out",
        )
    by = {"name": "taylor", "variant": variant} if score == "taylor" else score
    return Method(
        name="taylor",
        score=Score.make(by),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=Linear(start=start, end=end, every=every),
        coupling=HardMask(),
    )
