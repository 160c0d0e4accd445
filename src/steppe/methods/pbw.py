"""Pruning by weight (PBW): thresholds of a layer's own spread, and retraining, in turn."""

from __future__ import annotations

from steppe.core.protocols import Structure
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.cyclic import Cyclic


@published("pbw", "PBW")
def pbw(
    sparsity: float | None = None,
    cycles: int = 3,
    budget: BudgetSpec = "std_threshold",
    structure: StructureSpec = "unstructured",
) -> Method:
    """A layer loses what is smaller than q times its weights' spread; nothing is rewound.

    Args:
        sparsity: fraction of the weights that is zero at the end; it fixes q.
        cycles: trainings; each cut takes the same share of what is left.
        budget: std_threshold.
        structure: unstructured, N:M or block:HxW.

    Source: Han et al., Learning both Weights and Connections, 2015. (The protocol behind the
    numbers in SAFE's tables, which are copied from Zhou et al. 2021, is not known.)
    """
    return Method(
        name="pbw",
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=Cyclic(cycles=cycles, rewind="nothing"),
        coupling=HardMask(),
    )
