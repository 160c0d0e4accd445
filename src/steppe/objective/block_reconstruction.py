"""The output of a whole decoder block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from steppe.core.batch import Batch
from steppe.core.errors import SteppeError
from steppe.core.protocols import LayerSolver, Objective


@Objective.registry.register("block_reconstruction")
@dataclass(frozen=True, kw_only=True)
class BlockReconstruction(Objective):
    """Mean of (B(X; x) - B(X; x0))^2, X the block's inputs in the already pruned model.

    Args:
        start: a coupling that solves each layer first (obs_update, layer_admm, hard_mask); the
            optimisation then starts from its weights and its support. None starts dense.
        apart: reconstruct attention and feed-forward one after the other, each from its own
            inputs, instead of the block's output.

    Source: SAFE (ICML 2025), section 4.2; both options are ours.
    """

    start: str | None = None
    apart: bool = False
    name = "block_reconstruction"
    scope = "block"
    reads = ("outputs", "targets")

    def __post_init__(self) -> None:
        if self.start is not None and not issubclass(LayerSolver.registry[self.start], LayerSolver):
            raise SteppeError(
                "a start solves one layer at a time",
                got=f"start {self.start}",
                way_out="obs_update (SparseGPT), layer_admm (ALPS) or hard_mask",
            )

    @property
    def stages(self) -> Literal["block", "children"]:
        return "children" if self.apart else "block"

    @property
    def starts_from(self) -> LayerSolver | None:
        return None if self.start is None else LayerSolver.make(self.start)

    def loss(self, batch: Batch) -> Tensor:
        assert batch.outputs is not None
        assert batch.targets is not None
        return F.mse_loss(batch.outputs.float(), batch.targets)
