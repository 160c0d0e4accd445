"""The output of a whole decoder block."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.part import Objective


@Objective.registry.register("block_reconstruction")
@dataclass(frozen=True, kw_only=True)
class BlockReconstruction(Objective):
    """Mean of (B(X; x) - B(X; x0))^2, X the block's inputs in the already pruned model.

    Source: SAFE (ICML 2025), section 4.2.
    """

    name = "block_reconstruction"
    scope = "block"
