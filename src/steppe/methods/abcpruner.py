"""ABCPruner: an artificial bee colony looks for the widths, the best are fine-tuned."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.one_shot import OneShot


@published("abcpruner", "ABCPruner")
def abcpruner(
    sparsity: float | None = None,
    food: int = 10,
    cycles: int = 10,
    limit: int = 5,
    seed: int = 0,
    score: ScoreSpec = "l1",
    budget: BudgetSpec = "bee_colony",
    structure: StructureSpec = "channel",
) -> Method:
    """All is chosen before the first step; start it from trained weights.

    Args:
        sparsity: fraction of the cost that goes.
        food: widths that the colony holds at a time.
        cycles: how often it improves them.
        limit: failures until widths are given up.
        seed: of the search.
        score: l1 ranks the channels within a layer.
        budget: bee_colony or any other.
        structure: channel.

    Source: Lin et al., Channel Pruning via Automatic Structure Search, IJCAI 2020.
    """
    options = {"food": food, "cycles": cycles, "limit": limit, "seed": seed}
    spec = {"name": budget, **options} if budget == "bee_colony" else budget
    return Method(
        name="abcpruner",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(spec, sparsity, structure),
        schedule=OneShot(at=0.0),
        coupling=HardMask(),
    )
