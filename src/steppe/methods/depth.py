"""Depth: whole decoder blocks gone, chosen by what the model loses without them."""

from __future__ import annotations

from steppe.core.protocols import Structure
from steppe.coupling.hard_mask import HardMask
from steppe.method import Method
from steppe.methods.options import BudgetSpec, StructureSpec, budget_of
from steppe.methods.registry import published
from steppe.objective.layer_reconstruction import LayerReconstruction
from steppe.schedule.one_shot import OneShot


@published("depth", "Depth")
def depth(
    sparsity: float | None = None,
    budget: BudgetSpec = "block_loss",
    structure: StructureSpec = "layers",
) -> Method:
    """Blocks go one after the other, each time the one without which the loss is least.

    Args:
        sparsity: fraction of the decoder blocks that is gone.
        budget: what a block is worth: block_loss, or block_influence (ShortGPT's).
        structure: layers.

    Source: SLEB (Song et al. 2024, arXiv 2402.09025).
    """
    return Method(
        name="depth",
        structure=Structure.make(structure),
        budget=budget_of(budget, sparsity, structure),
        schedule=OneShot(),
        coupling=HardMask(),
        objective=LayerReconstruction(),
    )
