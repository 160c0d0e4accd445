"""One-shot pruning of the smallest weights."""

from __future__ import annotations

from steppe.core.protocols import Objective, Score, Structure
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ObjectiveSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.one_shot import OneShot


@published(
    "magnitude", "Magnitude", language={"objective": "layer_reconstruction", "budget": "uniform"}
)
def magnitude(
    sparsity: float | None = None,
    at: float = 1.0,
    score: ScoreSpec = "magnitude",
    budget: BudgetSpec = "pooled",
    structure: StructureSpec = "unstructured",
    objective: ObjectiveSpec = "task",
) -> Method:
    """The smallest weights go at once, at a point of the training.

    Args:
        sparsity: fraction of the weights that is zero at the end.
        at: when, as a fraction of the run: 1 after training, 0 before it (then the run
            fine-tunes what is left).
        score: any score.
        budget: pooled (global) or uniform (layer-wise).
        structure: unstructured, N:M, block:HxW or channel.
        objective: task, or layer_reconstruction for language models, layer by layer.

    Source: Han et al. 2015.
    """
    return Method(
        name="magnitude",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=OneShot(at=at),
        coupling=HardMask(),
        objective=Objective.make(objective),
    )
