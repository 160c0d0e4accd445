"""The output of a whole decoder block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch.nn.functional as F
from torch import Tensor

from steppe.core.batch import Batch
from steppe.core.errors import SteppeError
from steppe.core.protocols import LayerSolver, Objective

if TYPE_CHECKING:
    from steppe.method import Method


@Objective.registry.register("block_reconstruction")
@dataclass(frozen=True, kw_only=True)
class BlockReconstruction(Objective):
    """Mean of (B(X; x) - B(X; x0))^2, X the block's inputs in the already pruned model.

    Args:
        start: a coupling that solves each layer first (obs_update, layer_admm, hard_mask), by
            name or ``{"name": ..., option: value}``; the optimisation then starts from its
            weights and its support. None starts dense.
        held_out: share of the calibration windows that a training from a start does not see. A
            block whose error on them is not lower afterwards keeps the start's weights. 0 trains
            on all and keeps what comes out.
        apart: reconstruct attention and feed-forward one after the other, each from its own
            inputs, instead of the block's output.

    Source: SAFE (ICML 2025), section 4.2; the options are ours.
    """

    start: Any = None
    held_out: float = 0.125
    apart: bool = False
    name = "block_reconstruction"
    scope = "block"
    reads = ("outputs", "targets")

    def __post_init__(self) -> None:
        name = self.start.get("name") if isinstance(self.start, Mapping) else self.start
        if isinstance(name, str) and not issubclass(LayerSolver.registry[name], LayerSolver):
            raise SteppeError(
                "a start solves one layer at a time",
                got=f"start {name}",
                way_out="obs_update (SparseGPT), layer_admm (ALPS) or hard_mask",
            )
        if not isinstance(self.start, str | None):
            object.__setattr__(self, "start", LayerSolver.make(self.start))
        if not 0.0 <= self.held_out < 1.0:
            raise SteppeError(
                "the share of windows that is held out is at least 0 and below 1",
                got=f"held_out {self.held_out}",
                way_out="held_out 0.125, or 0 to train on all of them",
            )

    def to_dict(self) -> dict[str, Any]:
        start = self.start.to_dict() if isinstance(self.start, LayerSolver) else self.start
        return super().to_dict() | {"start": start}

    def changed_since(self, stored: Mapping[str, Any], method: Method) -> str:
        if "held_out" in stored or self.start is None:
            return ""
        return "a block kept what its steps gave, with no windows held out to judge it"

    @property
    def stages(self) -> Literal["block", "children"]:
        return "children" if self.apart else "block"

    @property
    def starts_from(self) -> LayerSolver | None:
        return None if self.start is None else LayerSolver.make(self.start)

    def judged_on(self, windows: int) -> int:
        if self.start is None or not self.held_out:
            return 0
        return min(max(1, round(self.held_out * windows)), windows - 1)

    def loss(self, batch: Batch) -> Tensor:
        assert batch.outputs is not None
        assert batch.targets is not None
        return F.mse_loss(batch.outputs.float(), batch.targets)
