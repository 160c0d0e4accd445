"""PolarReg: norm scales are driven to zero or away from it; what lies below the valley goes."""

from __future__ import annotations

from steppe.core.protocols import Score, Structure
from steppe.coupling.polarisation import Polarisation
from steppe.method import Method
from steppe.methods.options import BudgetSpec, ScoreSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.schedule.constant import Constant


@published("polarreg", "PolarReg")
def polarreg(
    sparsity: float | None = None,
    penalty: float = 8e-5,
    t: float = 1.2,
    detach: bool = False,
    initial: float = -1.0,
    score: ScoreSpec = "bn_gamma",
    budget: BudgetSpec = "valley",
    structure: StructureSpec = "channel",
) -> Method:
    """f + penalty sum_i (t |gamma_i| - |gamma_i - mean|), channels cut at the end.

    Args:
        sparsity: fraction of the cost that goes; with budget valley only whether anything goes
            (above 0), as the scales say how much.
        penalty: lam.
        t: how strong the pull to zero is.
        detach: take the mean for a constant in the gradient.
        initial: what all scales start from; the paper trains from 0.5. Negative leaves them.
        score: bn_gamma.
        budget: valley, or pooled to meet a sparsity. Valley looks for two humps in [0, largest];
            {"name": "valley", "search": "authors"} searches [0, 1] as the authors' code does.
        structure: channel.

    Source: Zhuang et al., Neuron-level Structured Pruning using Polarization Regularizer,
    NeurIPS 2020.
    """
    return Method(
        name="polarreg",
        score=Score.make(score),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=Constant(),
        coupling=Polarisation(penalty=penalty, t=t, detach=detach, initial=initial),
    )
