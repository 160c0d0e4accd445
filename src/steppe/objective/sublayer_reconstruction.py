"""The residual stream behind each sub-layer of a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from steppe.core.batch import Batch
from steppe.core.protocols import Objective


@Objective.registry.register("sublayer_reconstruction")
@dataclass(frozen=True, kw_only=True)
class SublayerReconstruction(Objective):
    """Mean of (h(X; x) - h(X; x0))^2, h the residual stream behind attention, then feed-forward.

    The two are optimised one after the other, the second from what the first became. They are
    found by what the block computes; a block that is no sequence of two (parallel attention) is
    optimised whole, and a note says so.

    Source: Roux et al. 2025, arXiv 2510.14444.
    """

    name = "sublayer_reconstruction"
    scope = "block"
    reads = ("outputs", "targets")

    @property
    def stages(self) -> Literal["sublayers"]:
        return "sublayers"

    def loss(self, batch: Batch) -> Tensor:
        assert batch.outputs is not None
        assert batch.targets is not None
        return F.mse_loss(batch.outputs.float(), batch.targets)
