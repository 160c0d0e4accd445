"""What the options of published methods may be, and the budget that they stand for."""

from __future__ import annotations

from collections.abc import Mapping

from steppe.core.errors import SteppeError
from steppe.core.protocols import Budget, Objective, Score, Structure
from steppe.method import Spec

# what an option of a method may be: a part, its name, or its name and options
ScoreSpec = Score | Spec
StructureSpec = Structure | Spec
BudgetSpec = Budget | Spec
ObjectiveSpec = Objective | Spec


def started(objective: ObjectiveSpec, start: str | None) -> Objective:
    """The objective, with what its blocks start from if it can start and does not say.

    Example:
        >>> started("block_reconstruction", "layer_admm").start
        'layer_admm'
        >>> started("task", "layer_admm").name
        'task'
    """
    part = Objective.make(objective)
    options = part.to_dict()
    if start is None or options.get("start", start) is not None:
        return part
    return Objective.make(options | {"start": start})


def budget_of(budget: BudgetSpec, sparsity: float | None, structure: StructureSpec) -> Budget:
    """The budget for a sparsity, which an N:M structure fixes when it is left out.

    Raises:
        SteppeError: neither says how sparse.
    """
    if isinstance(budget, Budget):
        return budget
    if sparsity is None:
        sparsity = Structure.make(structure).sparsity
    if sparsity is None:
        raise SteppeError(
            "a sparsity must be given", way_out="sparsity 0.95 (--sparsity 0.95), or structure 2:4"
        )
    spec = {"name": budget} if isinstance(budget, str) else budget
    if not isinstance(spec, Mapping):
        raise SteppeError(
            "a budget is a name, or a mapping with a name and its options",
            got=repr(budget),
            way_out="budget: {name: pooled}",
        )
    return Budget.make({"sparsity": sparsity} | dict(spec))
