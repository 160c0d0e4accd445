"""Each layer's own output."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.protocols import Objective


@Objective.registry.register("layer_reconstruction")
@dataclass(frozen=True, kw_only=True)
class LayerReconstruction(Objective):
    """||X W' - X W0'||^2 for each layer alone, X its inputs in the already pruned model.

    Source: AdaPrune, SparseGPT (Frantar & Alistarh 2023), eq. 1.
    """

    name = "layer_reconstruction"
    scope = "layer"
