"""FLAP: units whose inputs hardly vary gone, their mean left to the bias."""

from __future__ import annotations

from steppe.core.protocols import Structure
from steppe.coupling.mean_shift import MeanShift
from steppe.method import Method
from steppe.methods.options import BudgetSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.objective.layer_reconstruction import LayerReconstruction
from steppe.schedule.one_shot import OneShot
from steppe.score.fluctuation import Fluctuation


@published("flap", "FLAP")
def flap(
    sparsity: float | None = None,
    budget: BudgetSpec = "uniform",
    structure: StructureSpec = "neurons+heads",
) -> Method:
    """Units go whose outputs vary least; what they give in the mean becomes a bias.

    The paper ranks the units of all layers together, after standardising each layer's scores, so
    that layers differ in width and no config of transformers can say it. Here every block loses
    the same share, and the result is a plain model. It must have biases behind the units, or a
    config with a flag for them, as Llama's has.

    Args:
        sparsity: fraction of the units that is gone in each block.
        budget: uniform: a config has one width for all blocks.
        structure: neurons, heads or neurons+heads.

    Source: An et al., Fluctuation-based Adaptive Structured Pruning, AAAI 2024 (arXiv 2312.11983).
    """
    return Method(
        name="flap",
        score=Fluctuation(),
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=OneShot(),
        coupling=MeanShift(),
        objective=LayerReconstruction(),
    )
