"""Each layer's own output."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from steppe.core.batch import Batch
from steppe.core.protocols import Objective


@Objective.registry.register("layer_reconstruction")
@dataclass(frozen=True, kw_only=True)
class LayerReconstruction(Objective):
    """||X W' - X W0'||^2 for each layer alone, X its inputs in the already pruned model.

    Solvers minimise it from the layer's calibration statistics, without computing it.

    Source: AdaPrune, SparseGPT (Frantar & Alistarh 2023), eq. 1.
    """

    name = "layer_reconstruction"
    scope = "layer"
    reads = ("outputs", "targets")

    def loss(self, batch: Batch) -> Tensor:
        assert batch.outputs is not None
        assert batch.targets is not None
        return (batch.outputs.float() - batch.targets).square().sum()
