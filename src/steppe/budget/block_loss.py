"""The blocks go without which the loss of a language model is least."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.protocols import BlockBudget, BlockTrials


@BlockBudget.registry.register("block_loss")
@dataclass(frozen=True, kw_only=True)
class BlockLoss(BlockBudget):
    """The mean loss of the next token in the model without the block.

    Greedy: the block goes without which it is least, then all that are left are tried anew.
    Otherwise the blocks go at once whose loss alone costs least.

    A round costs about half the square of the number of blocks in calls of a block: models that
    lack another block share what comes before it.

    Args:
        greedy: see above.
        tokens: of the calibration text, on which the loss is taken.

    Source: SLEB (Song et al. 2024, arXiv 2402.09025), algorithm 1; 2SSP (Sandri et al. 2025, arXiv
    2501.17771) for single sub-layers; not greedy: Shortened LLaMA (Kim et al. 2024, arXiv
    2402.02834), PPL. The number of tokens is ours.
    """

    name = "block_loss"

    def models(self, blocks: int) -> int:
        return blocks

    def rated(self, trials: BlockTrials) -> dict[str, float]:
        return trials.losses()
