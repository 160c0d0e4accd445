"""One threshold for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steppe.core.layer import Layer
from steppe.core.protocols import Budget, Tensors
from steppe.core.selection import keep_largest


@Budget.registry.register("pooled")
@dataclass(frozen=True, kw_only=True)
class Pooled(Budget):
    """The smallest saliencies of all layers together go: the projection of the whole network."""

    name = "pooled"
    layerwise = False

    def keep(self, units: Tensors, layers: Mapping[str, Layer], prune: int) -> Tensors:
        return keep_largest(units, prune)
