"""The blocks go that turn their hidden states least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.protocols import BlockBudget, BlockTrials


@BlockBudget.registry.register("block_influence")
@dataclass(frozen=True, kw_only=True)
class BlockInfluence(BlockBudget):
    """1 - E[x'y / (||x|| ||y||)] over tokens, x what a block gets and y what it gives.

    One pass over the windows for all blocks, and as many as blocks go if it is greedy.

    Args:
        greedy: whether it is measured anew after each block that goes.
        tokens: of the calibration text, on which it is measured.

    Source: ShortGPT (Men et al. 2024, arXiv 2403.03853), block influence. The number of tokens
    is ours.
    """

    greedy: bool = False
    name = "block_influence"

    def models(self, blocks: int) -> int:
        return 1

    def rated(self, trials: BlockTrials) -> dict[str, float]:
        return trials.changes(_turned)


def _turned(inputs: Tensor, outputs: Tensor) -> Tensor:
    return 1.0 - torch.cosine_similarity(inputs.double(), outputs.double(), dim=-1)
